//! Work that goes on when whoever asked for it has left.
//!
//! A request is dropped wherever it stands when its client hangs up or its time is over. The database library does not bear
//! that while a transaction begins: the server has begun one and the pool does not know of it, so that the connection's next
//! user works in somebody else's transaction.

use tracing::Instrument;

/// Does the work in a task of its own and waits for it. If the wait is given up, the work goes on to its end and its result
/// is dropped.
///
/// # Panics
/// The work does.
pub(crate) async fn run_to_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work.in_current_span()).await {
        Ok(result) => result,
        // The task is never aborted.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
