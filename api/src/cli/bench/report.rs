//! What a run found: latencies, the table for people, and the JSON object for programs.

use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::database::{Environment, Usage};
use super::pacing::Driven;
use crate::cli::print_line;

/// The longest latency that is told apart, in microseconds: an hour, as long as a run may take.
const MAX_MICROS: u64 = 3_600_000_000;

/// Digits to which a latency is kept: an error below 0.1 %.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Latencies in microseconds.
#[derive(Debug, Clone)]
pub(super) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, MAX_MICROS, SIGNIFICANT_DIGITS);
        Self(histogram.expect("the bounds lie in order and the digits are few"))
    }
}

impl Latencies {
    pub(super) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(MAX_MICROS));
    }

    pub(super) fn absorb(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    pub(super) fn len(&self) -> u64 {
        self.0.len()
    }

    /// The percentiles; `None` of nothing.
    pub(super) fn percentiles(&self) -> Option<Percentiles> {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1_000.0;
        (!self.0.is_empty()).then(|| Percentiles {
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p99_9_ms: at(0.999),
            max_ms: self.0.max() as f64 / 1_000.0,
        })
    }
}

/// Where latencies lie, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p99_9_ms: f64,
    pub(super) max_ms: f64,
}

/// The result of one run. What a workload does not measure is left out.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) workload: &'static str,
    /// What is counted and what the rate is of: orders, requests or events.
    pub(super) unit: &'static str,
    pub(super) count: u64,
    pub(super) seconds: f64,
    /// Units per second.
    pub(super) rate: f64,
    pub(super) errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_error: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) latency: Option<Percentiles>,
    /// From the order's acceptance to its confirmation, as the database's clock has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) accept_to_confirmed: Option<Percentiles>,
    /// What became of the orders.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    pub(super) orders: Vec<(String, i64)>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Usage>,
    /// Figures of this workload alone.
    #[serde(flatten, serialize_with = "as_map")]
    pub(super) more: Vec<(String, f64)>,
    #[serde(flatten)]
    pub(super) environment: Environment,
}

fn as_map<S: serde::Serializer, V: Serialize>(entries: &[(String, V)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(entries.iter().map(|(name, value)| (name, value)))
}

impl Report {
    /// A report of so many units in so much time.
    pub(super) fn new(
        workload: &'static str,
        unit: &'static str,
        count: u64,
        elapsed: Duration,
        environment: Environment,
    ) -> Self {
        let seconds = elapsed.as_secs_f64();
        Self {
            workload,
            unit,
            count,
            seconds,
            rate: if seconds > 0.0 { count as f64 / seconds } else { 0.0 },
            errors: 0,
            first_error: None,
            latency: None,
            accept_to_confirmed: None,
            orders: Vec::new(),
            usage: None,
            more: Vec::new(),
            environment,
        }
    }

    /// A report of what was driven.
    pub(super) fn of(
        workload: &'static str,
        unit: &'static str,
        driven: &Driven,
        environment: Environment,
    ) -> Self {
        Self {
            errors: driven.errors,
            first_error: driven.first_error.clone(),
            latency: driven.latencies.percentiles(),
            ..Self::new(workload, unit, driven.succeeded(), driven.elapsed, environment)
        }
    }

    fn lines(&self) -> Vec<(String, String)> {
        let mut lines = vec![
            ("rate".to_owned(), format!("{:.0} {}/s", self.rate, self.unit)),
            (self.unit.to_owned(), format!("{} in {:.2} s", self.count, self.seconds)),
            ("errors".to_owned(), self.errors.to_string()),
        ];
        lines.extend(self.first_error.iter().map(|error| ("first error".to_owned(), error.clone())));
        let mut latency = |name: &str, percentiles: &Option<Percentiles>| {
            lines.extend(percentiles.map(|at| {
                let text = format!(
                    "p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms",
                    at.p50_ms, at.p99_ms, at.p99_9_ms, at.max_ms
                );
                (name.to_owned(), text)
            }));
        };
        latency("latency", &self.latency);
        latency("accept to CONFIRMED", &self.accept_to_confirmed);
        lines.extend(self.orders.iter().map(|(state, count)| (format!("orders {state}"), count.to_string())));
        if let Some(usage) = &self.usage {
            lines.push(("transactions per order".to_owned(), format!("{:.3}", usage.commits_per_order)));
            lines.push(("log bytes per order".to_owned(), format!("{:.0}", usage.wal_bytes_per_order)));
        }
        lines.extend(self.more.iter().map(|(name, value)| (name.replace('_', " "), format!("{value:.2}"))));
        let Environment { postgres, fsync, synchronous_commit, .. } = &self.environment;
        let durability = format!("{postgres}, fsync {fsync}, synchronous_commit {synchronous_commit}");
        lines.push(("Postgres".to_owned(), durability));
        lines
    }
}

/// How results are told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Says what is being done, to people.
    pub(super) fn say(self, line: impl std::fmt::Display) -> anyhow::Result<()> {
        if self.json { Ok(()) } else { print_line(line) }
    }

    /// Starts a bar of `len` units; one of unknown length turns.
    pub(super) fn progress(self, what: &'static str, len: Option<u64>) -> Progress {
        if self.json { Progress::hidden() } else { Progress::shown(what, len) }
    }

    /// Tells the result.
    pub(super) fn tell(self, report: &Report) -> anyhow::Result<()> {
        if self.json {
            return print_line(serde_json::to_string(report)?);
        }
        report.lines().iter().try_for_each(|(name, text)| print_line(format_args!("{name:<30}{text}")))
    }
}

/// A bar on standard error; it draws nothing where that is no terminal. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn hidden() -> Self {
        Self(ProgressBar::hidden())
    }

    fn shown(what: &'static str, len: Option<u64>) -> Self {
        let (bar, template) = match len {
            Some(len) => {
                (ProgressBar::new(len), "{msg:12} {bar:40} {human_pos}/{human_len}, {per_sec}, {eta} left")
            }
            None => (ProgressBar::new_spinner(), "{msg:12} {spinner} {human_pos} in {elapsed}, {per_sec}"),
        };
        let style = ProgressStyle::with_template(template).expect("the template is well formed");
        bar.set_style(style);
        bar.set_message(what);
        Self(bar)
    }

    pub(super) fn advance(&self, units: u64) {
        self.0.inc(units);
    }

    pub(super) fn set(&self, units: u64) {
        self.0.set_position(units);
    }

    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_kept_to_a_thousandth() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentiles(), None);
        (1..=1_000).for_each(|n| latencies.record(Duration::from_micros(n * 100)));
        let at = latencies.percentiles().expect("some");
        assert!(
            (at.p50_ms - 50.0).abs() < 0.1
                && (at.p99_ms - 99.0).abs() < 0.1
                && (at.max_ms - 100.0).abs() < 0.1
        );
    }

    #[test]
    fn the_json_object_is_flat_where_scripts_look() {
        let mut latencies = Latencies::default();
        latencies.record(Duration::from_millis(2));
        let driven = Driven { latencies, elapsed: Duration::from_secs(2), ..Driven::default() };
        let mut report = Report::of("place", "orders", &driven, Environment::default());
        report.usage = Some(Usage { commits_per_order: 0.5, wal_bytes_per_order: 1_000.0 });
        report.orders = vec![("CONFIRMED".to_owned(), 1)];
        report.more = vec![("viewers".to_owned(), 3.0)];
        let json = serde_json::to_value(&report).expect("JSON");
        for name in
            ["rate", "p50_ms", "p99_ms", "p99_9_ms", "errors", "commits_per_order", "viewers", "fsync"]
        {
            assert!(!json[name].is_null(), "{name}: {json}");
        }
        assert_eq!((json["rate"].as_f64(), json["orders"]["CONFIRMED"].as_i64()), (Some(0.5), Some(1)));
        assert!(json.get("accept_to_confirmed").is_none());
    }
}
