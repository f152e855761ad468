//! What the demo shows: a live line per order on a terminal, plain lines elsewhere, and a table at the end.

use std::io::{self, IsTerminal};
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::client::{Order, Step, Update};
use super::{Run, print_line};

/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(100);

/// Characters of the longest title, so that what follows stands in a column.
const TITLE_WIDTH: usize = 28;

/// Characters of a line of steps in the table, which as a whole so fits into 80.
const STEPS_WIDTH: usize = 24;

/// The orders on their way.
pub(super) struct Screen {
    titles: Vec<&'static str>,
    /// Empty where standard output is no terminal.
    lines: Vec<ProgressBar>,
}

impl Screen {
    pub(super) fn new(titles: impl Iterator<Item = &'static str>) -> Self {
        let titles: Vec<&'static str> = titles.collect();
        if !io::stdout().is_terminal() {
            return Self { titles, lines: Vec::new() };
        }
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let lines: Vec<ProgressBar> = titles
            .iter()
            .map(|title| {
                let line = ProgressBar::new_spinner().with_style(line_style("{spinner:.cyan}"));
                all.add(line.with_prefix(format!("{title:<TITLE_WIDTH$}")))
            })
            .collect();
        for line in &lines {
            line.enable_steady_tick(TICK);
        }
        Self { titles, lines }
    }

    /// Shows the newest event of an order.
    pub(super) fn show(&self, index: usize, updates: &[Update]) -> anyhow::Result<()> {
        let Some(newest) = updates.last() else { return Ok(()) };
        let event = format!(
            "{:<10} {:>6}  {} {}",
            newest.status,
            seconds(time_taken(updates)),
            newest.sequence,
            newest.event.kind
        );
        match self.lines.get(index) {
            Some(line) => line.set_message(event),
            None => print_line(format_args!("  {:<TITLE_WIDTH$} {event}", self.titles[index]))?,
        }
        Ok(())
    }

    /// Marks an order that is settled.
    pub(super) fn finish(&self, index: usize, ended_well: bool) {
        if let Some(line) = self.lines.get(index) {
            line.set_style(line_style(if ended_well { "{spinner:.green}" } else { "{spinner:.red}" }));
            line.finish();
        }
    }

    /// Leaves the live lines for what comes below them.
    pub(super) fn leave(self) -> anyhow::Result<()> {
        // The cursor still stands behind the last of them.
        if self.lines.is_empty() { Ok(()) } else { print_line("") }
    }
}

/// A settled order has the last of the tick characters.
fn line_style(spinner: &str) -> ProgressStyle {
    ProgressStyle::with_template(&format!("{spinner} {{prefix}} {{msg}}"))
        .expect("the template is well formed")
        .tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏●")
}

/// Returns the time between the first event and the last, by the database's clock.
pub(super) fn time_taken(updates: &[Update]) -> Duration {
    let (Some(first), Some(last)) = (updates.first(), updates.last()) else { return Duration::ZERO };
    (last.event.occurred_at - first.event.occurred_at).to_std().unwrap_or_default()
}

/// Draws what became of the orders.
pub(super) fn table(runs: &[Run]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["ORDER", "STATUS", "TOTAL", "STEPS", "TIME"]);
    for Run { scenario, order, took } in runs {
        let failure = order.failure.as_ref().map(|failure| format!("\n{}", failure.code)).unwrap_or_default();
        let steps = wrap(order.process.steps.iter().filter_map(describe), STEPS_WIDTH);
        // An empty last line sets the rows apart, whichever cell is the tallest.
        table.add_row([
            Cell::new(format!("{}\n{}{failure}\n ", scenario.title, order.id)),
            Cell::new(&order.status),
            Cell::new(total(order)).set_alignment(CellAlignment::Right),
            Cell::new(format!("{steps}\n ")),
            Cell::new(seconds(*took)).set_alignment(CellAlignment::Right),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
    table.trim_fmt().trim_end().to_owned()
}

/// The amount and its currency; nothing for an order that failed before it was quoted.
fn total(order: &Order) -> String {
    let total = order.totals.as_ref().map(|totals| &totals.total);
    total.map(|total| format!("{}\n{}", total.amount, total.currency)).unwrap_or_default()
}

/// Names a step that was tried, and what was unusual about it.
fn describe(step: &Step) -> Option<String> {
    let repeated = if step.attempts > 1 { format!(" x{}", step.attempts) } else { String::new() };
    match step.status.as_str() {
        "SKIPPED" | "WAITING" => None,
        "SUCCEEDED" => Some(format!("{}{repeated}", step.name)),
        "COMPENSATED" => Some(format!("{}{repeated} undone", step.name)),
        status => Some(format!("{}{repeated} {}", step.name, status.to_lowercase())),
    }
}

/// Joins the parts with commas, with a line break where a part would not fit.
fn wrap(parts: impl Iterator<Item = String>, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if line.len() + ", ,".len() + part.len() <= width => *line = format!("{line}, {part}"),
            _ => lines.push(part),
        }
    }
    lines.join(",\n")
}

fn seconds(duration: Duration) -> String {
    format!("{:.2}s", duration.as_secs_f64())
}

/// Tells what to paste next.
pub(super) fn what_next(url: &str, order_id: &str) -> String {
    let curl = format!("curl -s {url} -H 'content-type: application/json'");
    format!(
        r#"
The demo lets everybody on this machine in; `oms serve` asks for an API key (`oms keys create --help`).

Place an order of your own (the same key again returns the same order):
  {curl} -d '{{"query":"mutation {{ placeOrder(input: {{idempotencyKey: \"my-order-1\", lines: [{{sku: \"SKU-1\", quantity: 1}}], waitMs: 5000}}) {{ order {{ id status }} userErrors {{ message }} }} }}"}}'

Read one:
  {curl} -d '{{"query":"{{ getOrder(id: \"{order_id}\") {{ number status totals {{ total {{ amount currency }} }} }} }}"}}'

Watch one, from its first event:
  {curl} -N -H 'accept: text/event-stream' -d '{{"query":"subscription {{ orderStatus(id: \"{order_id}\") {{ sequence status event {{ type }} }} }}"}}'"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_break_between_names() {
        let parts = ["reserve_stock", "quote", "authorize_payment x3", "confirm"].map(str::to_owned);
        assert_eq!(wrap(parts.into_iter(), 24), "reserve_stock, quote,\nauthorize_payment x3,\nconfirm");
    }
}
