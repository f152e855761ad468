//! The log and the metrics of this process.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{LogArgs, LogFormat};

/// Upper bounds in seconds of the buckets of a duration: 1 ms to 30 s, finest where a request should end.
const DURATION_BUCKETS_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Upper bounds of the buckets of a batch size.
const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0];

/// How often what the histograms gathered is summed up; what nobody scrapes would pile up otherwise.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Starts logging to standard error. `default_filter` counts where the user gave none.
///
/// # Errors
/// The filter cannot be read, or a log has been started before.
pub fn start_log(args: &LogArgs, default_filter: &str) -> anyhow::Result<()> {
    let filter = args.filter.as_deref().filter(|filter| !filter.is_empty()).unwrap_or(default_filter);
    // A notice of Postgres ("relation exists, skipping") is no news; one asked for by name comes all the same.
    let quiet = "sqlx::postgres::notice=warn,sea_orm_migration=warn";
    let directives = if filter == "off" { filter.to_owned() } else { format!("{quiet},{filter}") };
    let filter = EnvFilter::try_new(directives)
        .with_context(|| format!("OMS_LOG is {filter:?}, which is not a filter such as info,saga=debug"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match args.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!(error)).context("cannot start the log")
}

/// Returns an error and what has caused it, for the field `error` of one line of the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Returns the process's metrics, which `/metrics` renders; the first call starts to record them.
///
/// Recorded are durations in seconds (names that end in `_seconds`), batch sizes (`_batch_size`), counters and gauges.
pub fn metrics() -> &'static PrometheusHandle {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    METRICS.get_or_init(|| {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), DURATION_BUCKETS_SECONDS)
            .and_then(|builder| {
                builder.set_buckets_for_metric(Matcher::Suffix("_batch_size".to_owned()), BATCH_BUCKETS)
            })
            .expect("neither list of buckets is empty");
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("metrics are recorded elsewhere; /metrics stays empty");
        }
        handle
    })
}

/// Keeps the metrics small for as long as it is polled.
pub async fn keep_metrics() {
    let handle = metrics();
    loop {
        tokio::time::sleep(UPKEEP_INTERVAL).await;
        handle.run_upkeep();
    }
}
