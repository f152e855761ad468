//! `oms serve`

use anyhow::Context;

use super::print_line;
use crate::config::ServeArgs;
use crate::serve::{self, Running};
use crate::shutdown;

pub(super) async fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let signal = shutdown::on_signal().context("cannot listen for signals")?;
    let mut running = tokio::select! {
        started = serve::start(args) => started?,
        () = signal.cancelled() => return Ok(()),
    };
    tell_ready(&running)?;
    let ended = tokio::select! {
        () = signal.cancelled() => Ok(()),
        ended = running.ended() => ended,
    };
    let stopped = running.stop().await;
    ended.and(stopped)
}

fn tell_ready(running: &Running) -> anyhow::Result<()> {
    tell_where(running)?;
    match running.first_key() {
        Some(secret) => print_line(format_args!(
            "Administrator key, shown this once: {}\nMake others with `oms keys create`.",
            secret.reveal()
        )),
        None => Ok(()),
    }
}

fn tell_where(running: &Running) -> anyhow::Result<()> {
    match running.addr() {
        Some(addr) => print_line(format_args!(
            "oms is ready: GraphQL on http://{addr}/graphql (a browser shows GraphiQL). Ctrl-C stops it."
        )),
        None => print_line("oms is ready: the runner is at work. Ctrl-C stops it."),
    }
}
