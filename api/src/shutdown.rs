//! Turns Ctrl-C and SIGTERM into a request to stop in order.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code of a process that a second signal ended at once: 128 and the number of SIGINT.
const EXIT_INTERRUPTED: i32 = 130;

/// Returns a token that is canceled by the first Ctrl-C or SIGTERM. The second ends the process at once; an embedded
/// Postgres then runs on, and the next start adopts it.
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut signals = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    let token = CancellationToken::new();
    let canceled = token.clone();
    tokio::spawn(async move {
        next(&mut signals).await;
        tracing::info!("stopping; a second signal ends the process at once");
        canceled.cancel();
        next(&mut signals).await;
        #[expect(clippy::disallowed_methods, reason = "the second signal asks to leave everything as it is")]
        std::process::exit(EXIT_INTERRUPTED);
    });
    Ok(token)
}

async fn next([interrupt, terminate]: &mut [Signal; 2]) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
