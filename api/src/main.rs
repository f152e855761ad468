//! The `oms` program; see [`oms::cli`].

use std::process::ExitCode;

/// Requests and batches are many small allocations from several threads, the work that this allocator is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    oms::cli::run()
}
