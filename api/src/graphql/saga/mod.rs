//! Sagas as operators see them.

use std::time::Duration;

use async_graphql::{Context, Enum, ID, InputObject, Object, Result, SimpleObject};
use chrono::{DateTime, Utc};
use domain::input::{Violation, check_text};
use saga::engine::Definitions;
use saga::engine::operate::{self, Entry, Filter, Listed, WaitsFor};

use super::error::OrReport;
use super::ids;
use super::loaders::Loaders;
use super::order::{Order, OrderFailure, ProcessState, load_order};
use super::page::{self, PageInfo};
use crate::app::Services;
use crate::reader::Source;

pub(super) mod mutation;
pub(super) mod query;

/// The most orders that one filter names.
const MAX_IDS: usize = 100;

/// The longest text that errors are searched for, in characters.
const MAX_ERROR_TEXT: usize = 200;

/// Which way a saga goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "saga::engine::Direction")]
pub(super) enum SagaDirection {
    /// It does its steps.
    Forward,
    /// It undoes them.
    Backward,
}

/// What a saga waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
pub(super) enum SagaWaitsFor {
    /// A runner that is free.
    Runner,
    /// The time of its next attempt.
    Time,
    /// The answer of another system.
    Answer,
    /// The decision of a person.
    Person,
    /// Nothing: it is over.
    Nothing,
}

/// What an operator can do to a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "operate::ActKind")]
pub(super) enum SagaAct {
    /// Try again now instead of at the next attempt's time.
    Retry,
    /// Let a held saga try again under the same key.
    Resume,
    /// Give up and undo what may have been done.
    Abandon,
    /// Say how a call ended whose outcome is unknown, or that a stuck one was seen to by other means.
    Resolve,
}

/// The process that carries an order out, as an operator sees it.
#[derive(Debug, Clone)]
pub(super) struct Saga(pub(super) Listed);

/// The process that carries an order out, as an operator sees it.
#[Object]
impl Saga {
    /// The order. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`
    async fn order_id(&self) -> ID {
        ids::order_id(self.0.subject_id)
    }

    /// The order itself.
    async fn order(&self, ctx: &Context<'_>) -> Result<Option<Order>> {
        load_order(ctx, Source::Primary, self.0.subject_id).await
    }

    /// Where it stands as a whole. Example: `RUNNING`
    async fn state(&self) -> ProcessState {
        self.0.status.into()
    }

    /// The step it is at, or was at last; `conclude` once everything was undone. Example: `capture_payment`
    async fn step(&self) -> &str {
        &self.0.step
    }

    /// Which way it goes. Example: `FORWARD`
    async fn direction(&self) -> SagaDirection {
        self.0.direction.into()
    }

    /// How often that step was tried in this direction. Example: `5`
    async fn attempts(&self) -> i32 {
        self.0.attempts
    }

    /// Since when it has been at that step (RFC 3339, UTC). Example: `2026-11-25T10:00:00.123456+00:00`
    async fn step_since(&self) -> DateTime<Utc> {
        self.0.step_since
    }

    /// Since when a person should look (RFC 3339, UTC); null while none need. Example:
    /// `2026-11-25T10:00:07.123456+00:00`
    async fn stuck_since(&self) -> Option<DateTime<Utc>> {
        self.0.stuck_since
    }

    /// What it waits for. Example: `TIME`
    async fn waits_for(&self) -> SagaWaitsFor {
        match self.0.waits_for {
            WaitsFor::Runner => SagaWaitsFor::Runner,
            WaitsFor::Time(_) => SagaWaitsFor::Time,
            WaitsFor::Answer(_) => SagaWaitsFor::Answer,
            WaitsFor::Person => SagaWaitsFor::Person,
            WaitsFor::Nothing => SagaWaitsFor::Nothing,
        }
    }

    /// When the next attempt begins, or when the answer is given up (RFC 3339, UTC); null where no time is known.
    /// Example: `2026-11-25T10:00:12.123456+00:00`
    async fn waits_until(&self) -> Option<DateTime<Utc>> {
        match self.0.waits_for {
            WaitsFor::Time(at) | WaitsFor::Answer(at) => Some(at),
            WaitsFor::Runner | WaitsFor::Person | WaitsFor::Nothing => None,
        }
    }

    /// Whether an attempt of the step ended unknown, so that it may have taken effect. Example: `true`
    async fn in_doubt(&self) -> bool {
        self.0.in_doubt
    }

    /// What its last attempt said, if that did not succeed. Example: `no answer within 10000 ms`
    async fn error(&self) -> Option<&str> {
        self.0.error.as_deref()
    }

    /// Why it is being undone, or was.
    async fn failure(&self) -> Option<OrderFailure> {
        self.0.failure.clone().map(OrderFailure::from)
    }

    /// What can be done to it now. Example: `RETRY`, `RESOLVE`
    async fn possible_acts(&self, ctx: &Context<'_>) -> Vec<SagaAct> {
        let definitions = &ctx.data_unchecked::<Services>().definitions;
        operate::possible_acts(&self.0, definitions).into_iter().map(SagaAct::from).collect()
    }

    /// Where it is, why, what happens next and when, and what can be done about it, in whole sentences. Example:
    /// `It is at capture_payment, step 4 of 5, and has been there for 4 min.`
    async fn explanation(&self, ctx: &Context<'_>) -> Vec<String> {
        operate::explain(&self.0, &ctx.data_unchecked::<Services>().definitions)
    }

    /// What it did and what was done to it: the newest entries, oldest first.
    async fn history(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many of the newest entries to return, 1 to 100. Example: `20`", default = 20)]
        last: i32,
    ) -> Result<Vec<SagaHistoryEntry>> {
        let last = page::check_size("last", last)?;
        let entries = ctx.data_unchecked::<Loaders>().histories.load(last, self.0.id).await;
        let entries = entries.or_report(ctx, "read the history of a saga")?.unwrap_or_default();
        Ok(entries.into_iter().map(SagaHistoryEntry::from).collect())
    }
}

/// What kind of thing happened to a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "operate::EntryKind")]
pub(super) enum SagaHistoryKind {
    /// An attempt of a step, or of its undo, ended.
    Attempt,
    /// It turned round; this is what it is going to undo.
    Plan,
    /// An answer came too late to count.
    Evidence,
    /// A person acted.
    Operator,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "operate::EntryOutcome")]
pub(super) enum AttemptOutcome {
    /// With its effect.
    Succeeded,
    /// Without effect, for good.
    Refused,
    /// Nobody knows: there may be an effect in another system.
    Unknown,
    /// Without effect: the step could not run, or asked to wait.
    Postponed,
}

/// One entry of a saga's history.
#[derive(Debug, Clone, SimpleObject)]
pub(super) struct SagaHistoryEntry {
    /// What kind of thing happened. Example: `ATTEMPT`
    kind: SagaHistoryKind,
    /// The step it was at. Example: `capture_payment`
    step: String,
    /// Which way it went. Example: `FORWARD`
    direction: SagaDirection,
    /// Which attempt of the step, counted from 1; 0 before the first. Example: `3`
    attempt: i32,
    /// How the attempt ended, or how a person said that it did; null where neither is meant. Example: `UNKNOWN`
    outcome: Option<AttemptOutcome>,
    /// The key under which the other system knows the call; null where there was none. Example:
    /// `019ab4ff-0000-7000-8000-000000000000:capture_payment:forward:1`
    idempotency_key: Option<String>,
    /// What was said, for people. Example: `no answer within 10000 ms`
    text: String,
    /// When it began (RFC 3339, UTC). Example: `2026-11-25T10:00:00.123456+00:00`
    started_at: DateTime<Utc>,
    /// When it was written down (RFC 3339, UTC). Example: `2026-11-25T10:00:10.123456+00:00`
    finished_at: DateTime<Utc>,
}

impl From<Entry> for SagaHistoryEntry {
    fn from(entry: Entry) -> Self {
        Self {
            kind: entry.kind.into(),
            step: entry.step,
            direction: entry.direction.into(),
            attempt: entry.attempt,
            outcome: entry.outcome.map(AttemptOutcome::from),
            idempotency_key: entry.idempotency_key,
            text: entry.text,
            started_at: entry.started_at,
            finished_at: entry.finished_at,
        }
    }
}

/// Which sagas: those that meet every condition. Unless `orderIds` or an end as `state` is given, only sagas on their
/// way are looked at.
#[derive(Debug, Clone, Default, InputObject)]
pub(super) struct SagaFilter {
    /// Only those of these orders, at most 100, whether they are over or not. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`
    order_ids: Option<Vec<ID>>,
    /// Only those that stand like this. Example: `HELD`
    state: Option<ProcessState>,
    /// Only those that a person should look at. Example: `true`
    #[graphql(default)]
    stuck: bool,
    /// Only those at this step. Example: `capture_payment`
    step: Option<String>,
    /// Only those that have been at their step for at least this long, in seconds. Example: `300`
    older_than_seconds: Option<i32>,
    /// Only those whose error or failure contains this text, 1 to 200 characters, whatever the case. Example:
    /// `server error`
    error: Option<String>,
}

impl SagaFilter {
    /// Checks the filter.
    ///
    /// # Errors
    /// The first field that is not as it must be, seen from the filter.
    fn check(&self, definitions: &Definitions) -> Result<Filter, Violation> {
        if self.order_ids.as_ref().is_some_and(|ids| ids.len() > MAX_IDS) {
            return Err(Violation::new(&["orderIds"], format!("must not hold more than {MAX_IDS}")));
        }
        if let Some(step) = &self.step {
            let names = operate::step_names(definitions);
            if !names.contains(&step.as_str()) {
                return Err(Violation::new(&["step"], format!("must be one of {}", names.join(", "))));
            }
        }
        let older_than = self.older_than_seconds.map(u64::try_from).transpose();
        let older_than =
            older_than.map_err(|_| Violation::new(&["olderThanSeconds"], "must not be negative"))?;
        if let Some(text) = &self.error {
            check_text(&["error"], text, MAX_ERROR_TEXT)?;
        }
        Ok(Filter {
            ids: self.order_ids.as_ref().map(|ids| ids.iter().filter_map(ids::parse_order_id).collect()),
            status: self.state.map(Into::into),
            stuck: self.stuck,
            step: self.step.clone(),
            older_than: older_than.map(Duration::from_secs),
            error_contains: self.error.clone(),
        })
    }
}

/// A saga and its cursor.
#[derive(Debug, SimpleObject)]
pub(super) struct SagaEdge {
    /// Where it lies in the list; give it as `after` for what follows. Example: `3031396162`
    cursor: String,
    /// The saga.
    node: Saga,
}

/// A page of sagas.
#[derive(Debug, SimpleObject)]
pub(super) struct SagaConnection {
    /// The sagas with their cursors.
    edges: Vec<SagaEdge>,
    /// The sagas alone.
    nodes: Vec<Saga>,
    /// Where the page lies in the list.
    page_info: PageInfo,
}

fn cursor(saga: &Listed) -> String {
    page::encode_cursor(&saga.id.to_string())
}

fn connect(nodes: Vec<Listed>, has_previous_page: bool, has_next_page: bool) -> SagaConnection {
    let page_info = PageInfo {
        has_next_page,
        has_previous_page,
        start_cursor: nodes.first().map(cursor),
        end_cursor: nodes.last().map(cursor),
    };
    let edges =
        nodes.iter().map(|node| SagaEdge { cursor: cursor(node), node: Saga(node.clone()) }).collect();
    SagaConnection { edges, nodes: nodes.into_iter().map(Saga).collect(), page_info }
}

/// Returns the place in the list that a cursor stands for.
fn decode_cursor(after: Option<&str>) -> Result<Option<uuid::Uuid>> {
    let Some(after) = after else { return Ok(None) };
    let id = page::decode_cursor(after)?;
    id.parse().map(Some).map_err(|_| page::invalid_argument("after is not the cursor of a saga"))
}
