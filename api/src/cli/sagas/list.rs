//! `oms sagas list`

use clap::Args;
use domain::id::OrderId;
use saga::engine::SagaStatus;
use saga::engine::operate::{self, Listed, MAX_LISTED, Parked, Unknown, WaitsFor, in_words};
use sea_orm::ActiveEnum;
use serde_json::{Value as Json, json};

use super::{FilterArgs, Session, SiteArgs, print_table, table};
use crate::cli::print_line;

/// The most characters of an error that the table shows; `explain` shows all.
const MAX_ERROR: usize = 60;

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// The most sagas to list
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=MAX_LISTED))]
    limit: u64,
    /// Print a JSON array instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) site: SiteArgs,
}

pub(super) async fn run(session: &Session, args: &ListArgs) -> anyhow::Result<()> {
    let filter = args.filter.to_filter();
    let sagas = operate::list(&session.db, &session.definitions, &filter, None, args.limit).await?;
    if args.json {
        return print_line(Json::from_iter(sagas.iter().map(to_json)));
    }
    let matched = operate::count(&session.db, &session.definitions, &filter).await?;
    let shown = sagas.len() as u64;
    if sagas.is_empty() {
        print_line("no saga matches")?;
    } else {
        print_sagas(&sagas)?;
    }
    if matched > shown {
        print_line(format_args!("{shown} of {matched} sagas; --limit shows more"))?;
    }
    // Whatever was asked for: it is what to look at first.
    for Parked { system, sagas } in operate::count_parked(&session.db).await? {
        print_line(format_args!("{system} gives no answers; calls to it are held back: {sagas}"))?;
    }
    for Unknown { definition, version, sagas } in
        operate::count_unknown(&session.db, &session.definitions).await?
    {
        print_line(format_args!(
            "this program does not know {definition} version {version}; only one that does carries them on: {sagas}"
        ))?;
    }
    Ok(())
}

/// Prints one line for each saga.
pub(super) fn print_sagas(sagas: &[Listed]) -> anyhow::Result<()> {
    let mut table = table(["ORDER", "STATE", "STEP", "TRIES", "FOR", "WAITS FOR", "ERROR"]);
    for saga in sagas {
        table.add_row([
            order_id(saga),
            state(saga),
            saga.step.clone(),
            saga.attempts.to_string(),
            in_words(saga.now - saga.finished_at.unwrap_or(saga.step_since)),
            waits_for(saga),
            shorten(&error(saga)),
        ]);
    }
    print_table(&table)
}

/// Returns the id of the saga's order.
pub(super) fn order_id(saga: &Listed) -> String {
    OrderId::from_uuid(saga.subject_id).to_string()
}

fn state(saga: &Listed) -> String {
    let state = saga.status.to_value();
    // A held saga is stuck by itself.
    if saga.stuck_since.is_some() && saga.status != SagaStatus::Held {
        format!("{state} (stuck)")
    } else {
        state
    }
}

fn waits_for(saga: &Listed) -> String {
    if let Some(system) = &saga.parked_for {
        return format!("{system} to answer others");
    }
    match saga.waits_for {
        WaitsFor::Runner => "a runner".to_owned(),
        WaitsFor::Time(at) => format!("its next try in {}", in_words(at - saga.now)),
        WaitsFor::Answer(deadline) => format!("an answer for {}", in_words(deadline - saga.now)),
        WaitsFor::Person => "a person".to_owned(),
        WaitsFor::Nothing => "nothing".to_owned(),
    }
}

fn error(saga: &Listed) -> String {
    let failure = saga.failure.as_ref().map(|failure| format!("{}: {}", failure.code, failure.message));
    saga.error.clone().or(failure).unwrap_or_default()
}

fn shorten(text: &str) -> String {
    let line = text.replace(['\n', '\r', '\t'], " ");
    match line.char_indices().nth(MAX_ERROR) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

fn to_json(saga: &Listed) -> Json {
    let (waits_for, waits_until) = match saga.waits_for {
        WaitsFor::Runner => ("RUNNER", None),
        WaitsFor::Time(at) => ("TIME", Some(at)),
        WaitsFor::Answer(deadline) => ("ANSWER", Some(deadline)),
        WaitsFor::Person => ("PERSON", None),
        WaitsFor::Nothing => ("NOTHING", None),
    };
    json!({
        "orderId": order_id(saga),
        "state": saga.status.to_value(),
        "step": saga.step,
        "direction": saga.direction.as_str(),
        "attempts": saga.attempts,
        "stepSince": saga.step_since,
        "stuckSince": saga.stuck_since,
        "waitsFor": waits_for,
        "waitsUntil": waits_until,
        "parkedFor": saga.parked_for,
        "inDoubt": saga.in_doubt,
        "error": saga.error,
        "failure": saga.failure,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_error_is_shortened_between_characters_and_stays_on_its_line() {
        assert_eq!(shorten("no\nanswer"), "no answer");
        assert_eq!(shorten(&"ä".repeat(MAX_ERROR)), "ä".repeat(MAX_ERROR));
        assert_eq!(shorten(&"ä".repeat(MAX_ERROR + 1)), "ä".repeat(MAX_ERROR) + "...");
    }
}
