//! `oms sagas explain`

use chrono::SecondsFormat;
use clap::Args;
use domain::id::OrderId;
use saga::engine::Direction;
use saga::engine::operate::{self, ActKind, Entry, EntryKind, EntryOutcome, in_words};

use super::{Session, SiteArgs, parse_order_id, print_table, table};
use crate::cli::print_line;

#[derive(Debug, Args)]
pub(in crate::cli) struct ExplainArgs {
    /// The order
    #[arg(value_parser = parse_order_id)]
    order_id: OrderId,
    /// The most entries of the history, the newest ones
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    last: u64,
    #[command(flatten)]
    pub(super) site: SiteArgs,
}

pub(super) async fn run(session: &Session, args: &ExplainArgs) -> anyhow::Result<()> {
    let (db, definitions, id) = (&session.db, &session.definitions, args.order_id.uuid());
    let saga = operate::find(db, definitions, id).await?;
    let Some(saga) = saga else { anyhow::bail!("there is no saga of {}", args.order_id) };
    print_line(format_args!("The saga {} of {}", saga.definition, args.order_id))?;
    for line in operate::explain(&saga, definitions) {
        print_line(format_args!("  {line}"))?;
    }
    let acts = operate::possible_acts(&saga, definitions);
    if !acts.is_empty() {
        print_line("\nCommands")?;
        for act in acts {
            print_line(format_args!("  {}", command(act, &args.order_id)))?;
        }
    }
    let history = operate::history(db, vec![id], args.last).await?.remove(&id).unwrap_or_default();
    if !history.is_empty() {
        print_line("\nHistory")?;
        print_history(&history)?;
    }
    if history.len() as u64 == args.last {
        print_line(format_args!("The newest {} entries; --last shows more.", args.last))?;
    }
    Ok(())
}

fn command(act: ActKind, order_id: &OrderId) -> String {
    let act = act.as_str();
    match act {
        "resolve" => {
            format!("oms sagas resolve {order_id} (--succeeded ANSWER_ID | --refused CODE) --evidence TEXT")
        }
        _ => format!("oms sagas {act} {order_id} --reason TEXT"),
    }
}

fn print_history(history: &[Entry]) -> anyhow::Result<()> {
    let mut table = table(["TIME", "STEP", "TRY", "WHAT", "TOOK", "SAID"]);
    for entry in history {
        let is_attempt = matches!(entry.kind, EntryKind::Attempt | EntryKind::Evidence);
        let attempt = if is_attempt { entry.attempt.to_string() } else { String::new() };
        let took = if is_attempt { in_words(entry.finished_at - entry.started_at) } else { String::new() };
        let step = match entry.direction {
            Direction::Forward => entry.step.clone(),
            Direction::Backward => format!("undo {}", entry.step),
        };
        let time = entry.started_at.to_rfc3339_opts(SecondsFormat::Millis, true);
        table.add_row([time, step, attempt, what(entry).to_owned(), took, entry.text.clone()]);
    }
    print_table(&table)
}

fn what(entry: &Entry) -> &'static str {
    match (entry.kind, entry.outcome) {
        (EntryKind::Plan, _) => "turned round",
        (EntryKind::Operator, _) => "operator",
        (EntryKind::Evidence, _) => "late answer",
        (EntryKind::Attempt, Some(EntryOutcome::Succeeded)) => "succeeded",
        (EntryKind::Attempt, Some(EntryOutcome::Refused)) => "refused",
        (EntryKind::Attempt, Some(EntryOutcome::Unknown)) => "unknown",
        (EntryKind::Attempt, Some(EntryOutcome::Postponed) | None) => "postponed",
    }
}
