//! Finds sagas among all that there ever were, at the cost of those that are meant.
//!
//! Sagas on their way are read from what they wait for (`saga_ready`, `saga_timer`, `saga_call`) and, where they wait
//! for a person, from the index `saga_stuck`. None of these holds a row of a saga that is over, so a list costs the
//! same however many those are. Sagas that are over are looked at only when asked for.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement, Value};
use serde_json::Value as Json;
use uuid::Uuid;

use super::{Listed, WaitsFor};
use crate::engine::definition::{CONCLUSION, CONCLUSION_NAME, Definitions};
use crate::engine::status::{Direction, SagaStatus};
use crate::engine::store::MOST_COUNTED;

/// The most sagas that one list returns.
pub const MAX_LISTED: u64 = 1_000;

/// Which sagas: those that meet every condition. Without `ids` and without a status that is an end, only sagas on
/// their way, held ones included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only these, whether they are over or not.
    pub ids: Option<Vec<Uuid>>,
    /// Only those that stand like this.
    pub status: Option<SagaStatus>,
    /// Only those that a person should look at.
    pub stuck: bool,
    /// Only those at the step of this name.
    pub step: Option<String>,
    /// Only those that have been at their step for at least this long.
    pub older_than: Option<Duration>,
    /// Only those whose error or failure contains this, whatever the case.
    pub error_contains: Option<String>,
}

impl Filter {
    /// Names one saga.
    pub fn one(id: Uuid) -> Self {
        Self { ids: Some(vec![id]), ..Self::default() }
    }

    /// Returns whether it holds no condition.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn asks_for_ended(&self) -> bool {
        self.status.is_some_and(SagaStatus::has_ended)
    }
}

#[derive(Debug, FromQueryResult)]
struct Row {
    id: Uuid,
    subject_id: Uuid,
    definition: String,
    version: i32,
    status: SagaStatus,
    step: i16,
    direction: Direction,
    attempt: i32,
    in_doubt: bool,
    step_since: DateTime<Utc>,
    stuck_since: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    failure: Option<Json>,
    is_ready: bool,
    due_at: Option<DateTime<Utc>>,
    parked_for: Option<String>,
    deadline: Option<DateTime<Utc>>,
    error: Option<String>,
    idempotency_key: Option<String>,
    now: DateTime<Utc>,
}

/// Lists up to `limit` sagas, at most [`MAX_LISTED`], that come after the one with the id `after`: the oldest first, or
/// the newest first where sagas are asked for that are over.
///
/// # Errors
/// Any error of the database.
pub async fn list(
    db: &impl ConnectionTrait,
    definitions: &Definitions,
    filter: &Filter,
    after: Option<Uuid>,
    limit: u64,
) -> Result<Vec<Listed>, DbErr> {
    let mut query = Query::new(definitions, filter);
    let order = if filter.asks_for_ended() { "DESC" } else { "ASC" };
    let id = query.id;
    if let Some(after) = after {
        let direction = if filter.asks_for_ended() { "<" } else { ">" };
        query.add(&format!("{id} {direction} {{}}"), after);
    }
    let limit = query.bind(limit.min(MAX_LISTED));
    let text = format!(
        "{SELECT} {} {WAITS} {LAST} {} ORDER BY {id} {order} LIMIT {limit}",
        query.from,
        query.filter()
    );
    let rows = Row::find_by_statement(query.into_statement(text)).all(db).await?;
    Ok(rows.into_iter().map(|row| describe(row, definitions)).collect())
}

/// Counts the sagas that a filter means.
///
/// # Errors
/// Any error of the database.
pub async fn count(
    db: &impl ConnectionTrait,
    definitions: &Definitions,
    filter: &Filter,
) -> Result<u64, DbErr> {
    let query = Query::new(definitions, filter);
    let last = if filter.error_contains.is_some() { LAST } else { "" };
    let text = format!("SELECT count(*) AS count {} {last} {}", query.from, query.filter());
    let row = db.query_one_raw(query.into_statement(text)).await?;
    let counted = row.map_or(Ok(0), |row| row.try_get::<i64>("", "count"))?;
    Ok(u64::try_from(counted).unwrap_or(0))
}

/// How many sagas are parked for a system.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct Parked {
    /// The other system.
    pub system: String,
    /// How many sagas wait for its answers.
    pub sagas: i64,
}

/// Counts the sagas that are parked because a system gives no answers, by system.
///
/// # Errors
/// Any error of the database.
pub async fn count_parked(db: &impl ConnectionTrait) -> Result<Vec<Parked>, DbErr> {
    // Served by saga_timer_parked.
    let query = "SELECT parked_for AS system, count(*) AS sagas FROM saga_timer WHERE parked_for IS NOT NULL
                 GROUP BY parked_for ORDER BY parked_for";
    Parked::find_by_statement(Statement::from_string(DbBackend::Postgres, query)).all(db).await
}

/// How many open sagas have a definition that a program does not know.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct Unknown {
    /// The definition's name.
    pub definition: String,
    /// Its version.
    pub version: i32,
    /// How many sagas are pinned to it.
    pub sagas: i64,
}

/// Counts the open sagas whose definition is none of these, by name and version. Looks at [`MOST_COUNTED`] open sagas at
/// most, those first that no runner could take at once.
///
/// # Errors
/// Any error of the database.
pub async fn count_unknown(
    db: &impl ConnectionTrait,
    definitions: &Definitions,
) -> Result<Vec<Unknown>, DbErr> {
    let names = definitions.iter().map(|definition| definition.name.to_owned()).collect::<Vec<_>>();
    let versions = definitions.iter().map(|definition| definition.version).collect::<Vec<_>>();
    // A look at saga_pkey for each saga that is open, as in a list.
    let query = "
        SELECT saga.definition, saga.version, count(*) AS sagas
        FROM (SELECT saga_id FROM saga_call UNION ALL
              SELECT id FROM saga WHERE stuck_since IS NOT NULL AND status = 'HELD' UNION ALL
              SELECT saga_id FROM saga_timer UNION ALL
              SELECT saga_id FROM saga_ready LIMIT $3) AS open
        CROSS JOIN LATERAL (SELECT definition, version FROM saga WHERE saga.id = open.saga_id OFFSET 0) AS saga
        WHERE (saga.definition, saga.version) NOT IN (SELECT * FROM unnest($1::text[], $2::integer[]))
        GROUP BY saga.definition, saga.version ORDER BY saga.definition, saga.version";
    let values = [names.into(), versions.into(), MOST_COUNTED.into()];
    Unknown::find_by_statement(Statement::from_sql_and_values(DbBackend::Postgres, query, values))
        .all(db)
        .await
}

/// Reads one saga, whether it is over or not.
///
/// # Errors
/// Any error of the database.
pub async fn find(
    db: &impl ConnectionTrait,
    definitions: &Definitions,
    id: Uuid,
) -> Result<Option<Listed>, DbErr> {
    Ok(list(db, definitions, &Filter::one(id), None, 1).await?.pop())
}

/// Returns the names that a filter's step can have.
pub fn step_names(definitions: &Definitions) -> Vec<&'static str> {
    let mut names: Vec<&'static str> =
        definitions.iter().flat_map(|definition| definition.steps.iter().map(|step| step.name)).collect();
    names.push(CONCLUSION_NAME);
    names
}

const SELECT: &str = "
SELECT saga.id, saga.subject_id, saga.definition, saga.version, saga.status, saga.step, saga.direction, saga.attempt,
       saga.in_doubt, saga.step_since, saga.stuck_since, saga.finished_at, saga.failure,
       ready.saga_id IS NOT NULL AS is_ready, timer.due_at, timer.parked_for, call.deadline, last.error,
       last.idempotency_key, now() AS now";

/// Every saga that is not over: each has one row in these places, and only those have one. The offset keeps the planner
/// from merging two sorted lists, which for a long list would walk through every saga there ever was.
const ON_THEIR_WAY: &str = "
FROM (SELECT saga_id FROM saga_ready UNION ALL
      SELECT saga_id FROM saga_timer UNION ALL
      SELECT saga_id FROM saga_call UNION ALL
      SELECT id FROM saga WHERE stuck_since IS NOT NULL AND status = 'HELD') AS open
CROSS JOIN LATERAL (SELECT * FROM saga WHERE saga.id = open.saga_id OFFSET 0) AS saga";

const WAITS: &str = "
LEFT JOIN saga_ready AS ready ON ready.saga_id = saga.id
LEFT JOIN saga_timer AS timer ON timer.saga_id = saga.id
LEFT JOIN saga_call AS call ON call.saga_id = saga.id";

/// The last attempt. What an attempt of another direction said is not what the saga waits about.
const LAST: &str = "
LEFT JOIN LATERAL (
    SELECT CASE WHEN outcome <> 'SUCCEEDED' AND log.direction = saga.direction
                THEN coalesce(detail ->> 'message', detail ->> 'reason') END AS error,
           idempotency_key
    FROM saga_log AS log
    WHERE log.saga_id = saga.id AND kind = 'ATTEMPT'
    ORDER BY epoch DESC LIMIT 1
) AS last ON true";

/// A statement in the making: where the sagas come from, and the conditions with their parameters.
struct Query {
    from: &'static str,
    /// The column that sorts them by id.
    id: &'static str,
    conditions: Vec<String>,
    values: Vec<Value>,
}

impl Query {
    fn new(definitions: &Definitions, filter: &Filter) -> Self {
        let (from, id) = match filter {
            // Served by saga_pkey.
            Filter { ids: Some(_), .. } => ("FROM saga", "saga.id"),
            // Walks saga_pkey from its right edge.
            _ if filter.asks_for_ended() => ("FROM saga", "saga.id"),
            // Served by saga_stuck.
            Filter { stuck: true, .. } | Filter { status: Some(SagaStatus::Held), .. } => {
                ("FROM saga", "saga.id")
            }
            // Merges the primary keys of what sagas wait for.
            _ => (ON_THEIR_WAY, "open.saga_id"),
        };
        let mut query = Self { from, id, conditions: Vec::new(), values: Vec::new() };
        query.add_conditions(definitions, filter);
        query
    }

    fn add_conditions(&mut self, definitions: &Definitions, filter: &Filter) {
        use sea_orm::ActiveEnum;
        if let Some(ids) = &filter.ids {
            self.add("saga.id = ANY({})", ids.clone());
        }
        if let Some(status) = filter.status {
            self.add("saga.status = {}", status.to_value());
        }
        if filter.stuck || filter.status == Some(SagaStatus::Held) {
            // Every held saga is stuck, and this is the condition of the index.
            self.conditions.push("saga.stuck_since IS NOT NULL".to_owned());
        }
        if let Some(name) = &filter.step {
            let places = places_of(definitions, name);
            let names = self.bind(places.iter().map(|place| place.0.clone()).collect::<Vec<String>>());
            let versions = self.bind(places.iter().map(|place| place.1).collect::<Vec<i32>>());
            let steps = self.bind(places.iter().map(|place| place.2).collect::<Vec<i16>>());
            self.conditions.push(format!(
                "(saga.definition, saga.version, saga.step) IN
                     (SELECT * FROM unnest({names}::text[], {versions}::integer[], {steps}::smallint[]))"
            ));
        }
        if let Some(age) = filter.older_than {
            let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            self.add("saga.step_since <= now() - {} * interval '1 millisecond'", age_ms);
        }
        if let Some(text) = &filter.error_contains {
            self.add(
                "strpos(lower(concat_ws(' ', last.error, saga.failure ->> 'code', saga.failure ->> 'message')),
                        lower({})) > 0",
                text.clone(),
            );
        }
    }

    /// Adds a condition, with its parameter in place of `{}`.
    fn add(&mut self, condition: &str, value: impl Into<Value>) {
        let parameter = self.bind(value);
        self.conditions.push(condition.replace("{}", &parameter));
    }

    /// Adds a parameter and returns its place holder.
    fn bind(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("${}", self.values.len())
    }

    fn filter(&self) -> String {
        if self.conditions.is_empty() {
            return String::new();
        }
        format!("WHERE {}", self.conditions.join(" AND "))
    }

    fn into_statement(self, text: String) -> Statement {
        Statement::from_sql_and_values(DbBackend::Postgres, text, self.values)
    }
}

/// Returns definition, version and index of each step of this name.
fn places_of(definitions: &Definitions, name: &str) -> Vec<(String, i32, i16)> {
    let mut places = Vec::new();
    for definition in definitions.iter() {
        let names = definition.steps.iter().map(|step| step.name).chain([CONCLUSION_NAME]);
        // An index beyond i16 has no row; the conclusion comes last and has one of its own.
        let indexes = (0..).take(definition.steps.len()).chain([CONCLUSION]);
        places.extend(
            names
                .zip(indexes)
                .filter(|(step, _)| *step == name)
                .map(|(_, index)| (definition.name.to_owned(), definition.version, index)),
        );
    }
    places
}

fn describe(row: Row, definitions: &Definitions) -> Listed {
    let definition = definitions.find(&row.definition, row.version);
    let step =
        definition.map_or_else(|| format!("step {}", row.step), |found| found.step_name(row.step).to_owned());
    let waits_for = match (row.is_ready, row.due_at, row.deadline) {
        (true, ..) => WaitsFor::Runner,
        (_, Some(due_at), _) => WaitsFor::Time(due_at),
        (_, _, Some(deadline)) => WaitsFor::Answer(deadline),
        _ if row.status == SagaStatus::Held => WaitsFor::Person,
        _ => WaitsFor::Nothing,
    };
    Listed {
        id: row.id,
        subject_id: row.subject_id,
        definition: row.definition,
        version: row.version,
        status: row.status,
        step_index: row.step,
        step,
        direction: row.direction,
        attempts: row.attempt,
        in_doubt: row.in_doubt,
        step_since: row.step_since,
        stuck_since: row.stuck_since,
        finished_at: row.finished_at,
        waits_for,
        parked_for: row.parked_for,
        error: row.error,
        idempotency_key: row.idempotency_key,
        failure: row.failure.and_then(|failure| serde_json::from_value(failure).ok()),
        now: row.now,
    }
}
