//! Acting on sagas.

use async_graphql::{Context, ID, InputObject, Object, Result, SimpleObject};
use domain::input::Violation;
use saga::engine::operate::{self, Act, ActError, Filter, Finding, MAX_LISTED, Operator};
use saga::place_order::operate::act_on_order;
use sea_orm::DbErr;
use uuid::Uuid;

use super::{Saga, SagaFilter, cursor, decode_cursor};
use crate::access::{OPERATES, caller};
use crate::app::Services;
use crate::graphql::error::{OrReport, UserError};
use crate::graphql::{ids, page};
use crate::operator;
use crate::run_to_end::run_to_end;

/// Acts on sagas.
#[derive(Debug, Default)]
pub(crate) struct SagaMutation;

#[Object]
impl SagaMutation {
    /// Tries sagas again now that wait for the time of their next attempt. For operators.
    ///
    /// Each saga is acted on in a transaction of its own, which also appends the event `OperatorActed` to its order;
    /// operators who watch the order see who acted and why. `by` is taken at its word; `via` in the event names the app and
    /// the key that the request came with.
    #[graphql(guard = "OPERATES")]
    async fn retry_sagas(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which sagas, and who asks for what reason.")] input: ActOnSagasInput,
    ) -> Result<ActOnSagasPayload> {
        input.act(ctx, &Act::Retry).await
    }

    /// Lets held sagas try again under the same keys: you vouch that a call which the other system may have forgotten
    /// is not carried out twice. For operators; see `retrySagas`.
    #[graphql(guard = "OPERATES")]
    async fn resume_sagas(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which sagas, and who asks for what reason.")] input: ActOnSagasInput,
    ) -> Result<ActOnSagasPayload> {
        input.act(ctx, &Act::Resume).await
    }

    /// Gives sagas up that are not past the point of no return: what may have been done is undone, and the order fails
    /// with the code `ABANDONED`. The reason is told to operators alone. For operators; see `retrySagas`.
    #[graphql(guard = "OPERATES")]
    async fn abandon_sagas(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which sagas, and who asks for what reason.")] input: ActOnSagasInput,
    ) -> Result<ActOnSagasPayload> {
        input.act(ctx, &Act::Abandon).await
    }

    /// Says how a call ended whose outcome is unknown; the saga goes on as if the other system had answered so. Find
    /// out first: nobody checks it. A stuck call, such as a void that is refused again and again, can be said to have
    /// succeeded once somebody has seen to its effect by other means. For operators; see `retrySagas`.
    #[graphql(guard = "OPERATES")]
    async fn resolve_saga(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which saga, how its call ended, and how that is known.")] input: ResolveSagaInput,
    ) -> Result<ResolveSagaPayload> {
        let services = ctx.data_unchecked::<Services>();
        let (finding, operator) = match input.check(&caller(ctx)?.credential()) {
            Ok(checked) => checked,
            Err(violations) => return Ok(ResolveSagaPayload::refused(violations)),
        };
        let acted = match ids::parse_order_id(&input.order_id) {
            Some(id) if input.dry_run => try_out(services, id, &Act::Resolve(finding)).await.map(|()| id),
            Some(id) => act(services, id, Act::Resolve(finding), &operator).await.map(|()| id),
            None => Err(ActError::Missing),
        };
        match acted {
            Ok(id) => {
                let saga = operate::find(&services.db, &services.definitions, id).await;
                let saga = saga.or_report(ctx, "read a saga")?.map(Saga);
                Ok(ResolveSagaPayload { saga, user_errors: Vec::new() })
            }
            Err(error) => {
                let error = UserError::of_act(&["orderId"], &input.order_id, error);
                Ok(ResolveSagaPayload::refused([error.or_report(ctx, "resolve a saga")?]))
            }
        }
    }
}

/// Sagas to act on.
#[derive(Debug, Clone, InputObject)]
pub(super) struct ActOnSagasInput {
    /// Which ones; at least one condition.
    filter: SagaFilter,
    /// The most sagas of this call, 1 to 100. Example: `20`
    #[graphql(default = 100)]
    first: i32,
    /// Leave out those up to this cursor, the `endCursor` of an earlier call. Example: `3031396162`
    after: Option<String>,
    /// Who acts, 1 to 100 characters. Example: `ada`
    by: String,
    /// Why, 1 to 500 characters. Example: `the gateway is back`
    reason: String,
    /// Only say what would be done. Example: `true`
    #[graphql(default)]
    dry_run: bool,
}

/// What became of acting on sagas.
#[derive(Debug, SimpleObject)]
pub(super) struct ActOnSagasPayload {
    /// How many sagas the filter meant, those beyond `first` and up to `after` included. Example: `12`
    matched: i32,
    /// How many were acted on, or would have been. Example: `10`
    count: i32,
    /// Whether nothing was done because of `dryRun`. Example: `false`
    dry_run: bool,
    /// Those, as they are now.
    sagas: Vec<Saga>,
    /// Where the next call goes on; null when no saga is left.
    end_cursor: Option<String>,
    /// Why the others were left as they are, one for each.
    user_errors: Vec<UserError>,
}

impl ActOnSagasInput {
    async fn act(&self, ctx: &Context<'_>, act: &Act) -> Result<ActOnSagasPayload> {
        let services = ctx.data_unchecked::<Services>();
        let Services { db, definitions, .. } = services;
        let first = page::check_first(self.first)?;
        let after = decode_cursor(self.after.as_deref())?;
        let (filter, operator) = match self.check(services, &caller(ctx)?.credential()) {
            Ok(checked) => checked,
            Err(violations) => return Ok(ActOnSagasPayload::refused(violations)),
        };
        let matched = operate::count(db, definitions, &filter).await.or_report(ctx, "count sagas")?;
        let mut sagas =
            operate::list(db, definitions, &filter, after, first + 1).await.or_report(ctx, "list sagas")?;
        let has_more = sagas.len() as u64 > first;
        sagas.truncate(first as usize);

        let mut done = Vec::new();
        let mut user_errors = self.unknown_orders(services).await.or_report(ctx, "look for orders")?;
        for saga in &sagas {
            let acted = match self.dry_run {
                true => operate::check(saga, definitions, act.kind()),
                false => self::act(services, saga.id, act.clone(), &operator).await,
            };
            match acted {
                Ok(()) => done.push(saga.id),
                Err(error) => {
                    let error = UserError::of_act(&["filter"], &ids::order_id(saga.subject_id), error);
                    user_errors.push(error.or_report(ctx, "act on a saga")?);
                }
            }
        }
        let count = done.len();
        let now = Filter { ids: Some(done), ..Filter::default() };
        let now = operate::list(db, definitions, &now, None, first).await.or_report(ctx, "read sagas")?;
        Ok(ActOnSagasPayload {
            matched: i32::try_from(matched).unwrap_or(i32::MAX),
            count: i32::try_from(count).unwrap_or(i32::MAX),
            dry_run: self.dry_run,
            sagas: now.into_iter().map(Saga).collect(),
            end_cursor: sagas.last().filter(|_| has_more).map(cursor),
            user_errors,
        })
    }

    fn check(&self, services: &Services, via: &str) -> Result<(Filter, Operator), Vec<Violation>> {
        let mut violations = Vec::new();
        let filter = self.filter.check(&services.definitions).unwrap_or_else(|violation| {
            violations.push(violation.within(&["filter"]));
            Filter::default()
        });
        if violations.is_empty() && filter.is_empty() {
            violations.push(Violation::new(&["filter"], "must hold at least one condition"));
        }
        match operator::check(&self.by, via, "reason", &self.reason) {
            Ok(operator) if violations.is_empty() => Ok((filter, operator)),
            Ok(_) => Err(violations),
            Err(more) => Err(violations.into_iter().chain(more).collect()),
        }
    }

    /// Says of each order that was named, in the first call of several, that it does not exist.
    async fn unknown_orders(&self, services: &Services) -> Result<Vec<UserError>, DbErr> {
        let Some(named) = self.filter.order_ids.as_ref().filter(|_| self.after.is_none()) else {
            return Ok(Vec::new());
        };
        let ids = named.iter().filter_map(ids::parse_order_id).collect();
        let filter = Filter { ids: Some(ids), ..Filter::default() };
        let known = operate::list(&services.db, &services.definitions, &filter, None, MAX_LISTED).await?;
        let is_known = |id: &ID| {
            ids::parse_order_id(id).is_some_and(|id| known.iter().any(|saga| saga.subject_id == id))
        };
        let unknown = named.iter().enumerate().filter(|(_, id)| !is_known(id));
        let errors = unknown.filter_map(|(index, id)| {
            UserError::of_act(&["filter", "orderIds", &index.to_string()], id, ActError::Missing).ok()
        });
        Ok(errors.collect())
    }
}

impl ActOnSagasPayload {
    fn refused(violations: Vec<Violation>) -> Self {
        Self {
            matched: 0,
            count: 0,
            dry_run: false,
            sagas: Vec::new(),
            end_cursor: None,
            user_errors: violations.into_iter().map(UserError::from).collect(),
        }
    }
}

/// How the call of a saga ended. Exactly one of `succeeded` and `refused` says it.
#[derive(Debug, Clone, InputObject)]
pub(super) struct ResolveSagaInput {
    /// The order. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`
    order_id: ID,
    /// It took effect; this is the id that the other system gave to what it did, 1 to 200 characters. Example:
    /// `capture_9f2c`
    succeeded: Option<String>,
    /// It took no effect and never will; this is the code of the refusal, 1 to 200 characters. Example: `CARD_DECLINED`
    refused: Option<String>,
    /// How that is known, 1 to 500 characters. Example: `the gateway's dashboard shows the capture at 10:02`
    evidence: String,
    /// Who acts, 1 to 100 characters. Example: `ada`
    by: String,
    /// Only say whether it could be done. Example: `true`
    #[graphql(default)]
    dry_run: bool,
}

impl ResolveSagaInput {
    fn check(&self, via: &str) -> Result<(Finding, Operator), Vec<Violation>> {
        let finding = operator::finding(self.succeeded.as_deref(), self.refused.as_deref());
        match (finding, operator::check(&self.by, via, "evidence", &self.evidence)) {
            (Ok(finding), Ok(operator)) => Ok((finding, operator)),
            (finding, operator) => {
                Err(finding.err().into_iter().chain(operator.err().unwrap_or_default()).collect())
            }
        }
    }
}

/// What became of resolving a saga.
#[derive(Debug, SimpleObject)]
pub(super) struct ResolveSagaPayload {
    /// The saga as it is now; null when it was left as it is.
    saga: Option<Saga>,
    /// Why it was left as it is; empty when it was not.
    user_errors: Vec<UserError>,
}

impl ResolveSagaPayload {
    fn refused(errors: impl IntoIterator<Item = impl Into<UserError>>) -> Self {
        Self { saga: None, user_errors: errors.into_iter().map(Into::into).collect() }
    }
}

/// Acts on the saga of an order, and wakes whoever waits for it.
async fn act(services: &Services, order_id: Uuid, act: Act, operator: &Operator) -> Result<(), ActError> {
    let (services_too, operator) = (services.clone(), operator.clone());
    run_to_end(async move {
        act_on_order(&services_too.db, &services_too.definitions, order_id, act, &operator).await
    })
    .await?;
    services.wakeups.sagas_ready();
    services.wakeups.subjects_changed(vec![order_id]);
    Ok(())
}

/// Says whether an act could be carried out.
async fn try_out(services: &Services, order_id: Uuid, act: &Act) -> Result<(), ActError> {
    let saga = operate::find(&services.db, &services.definitions, order_id).await?;
    operate::check(&saga.ok_or(ActError::Missing)?, &services.definitions, act.kind())
}
