//! Lets requests in and executes them.
//!
//! Queries are parsed, measured and priced here and not in an extension of the library: as soon as it has one, it puts a
//! detour around the resolver of every field.

use std::any::TypeId;
use std::sync::Arc;
use std::time::Duration;

use async_graphql::parser::types::{
    ExecutableDocument, OperationDefinition, OperationType, Selection, SelectionSet,
};
use async_graphql::{ErrorExtensionValues, Request, Response, ServerError, Value, Variables, value};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use saga::engine::Presence;
use saga::engine::presence::no_answer;
use sea_orm::DatabaseConnection;
use tracing::warn;

use super::documents::{Documents, VALIDATION_FAILED};
use super::error::UNAVAILABLE;
use super::limits::prices::Price;
use super::limits::{Prices, prices};
use super::loaders::Loaders;
use super::order::mutation::MAX_WAIT;
use super::registered::{self, DOCUMENT_NOT_ALLOWED, DOCUMENT_NOT_FOUND, Unsettled};
use super::{DocumentChecker, Schema, builder, sdl};
use crate::access::budget::{Budgets, Deposit, Exhausted, Throttle};
use crate::access::documents::RegisteredDocuments;
use crate::access::personal_data::{PersonalData, request_id};
use crate::access::{Caller, FORBIDDEN};
use crate::app::Services;
use crate::config::LimitArgs;
use crate::telemetry::chain;

/// `extensions.code` of a request for which the app has not enough points left: later it has.
pub const RATE_LIMITED: &str = "RATE_LIMITED";

/// `extensions.code` of a request that costs more than one may, or than the app's budget ever holds.
pub const QUERY_TOO_COSTLY: &str = "QUERY_TOO_COSTLY";

/// `extensions.code` of a request without a variable that it must have.
const VARIABLE_MISSING: &str = "VARIABLE_MISSING";

/// `extensions.code` of a request that took too long. A mutation may have been carried out.
pub const TIMEOUT: &str = "TIMEOUT";

/// `extensions.code` of a subscription over a transport that has one answer.
const NEEDS_STREAM: &str = "SUBSCRIPTION_NEEDS_STREAM";

/// `extensions.code` of an argument that is not as it must be.
const INVALID_INPUT: &str = "INVALID_INPUT";

/// The most errors of one answer.
const MAX_ERRORS: usize = 20;

/// The longest message of an error, in characters.
const MAX_ERROR_CHARS: usize = 1_000;

/// Executes requests. Cheap to clone.
#[derive(Clone)]
pub struct Executor {
    schema: Schema,
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    documents: Documents,
    registered: RegisteredDocuments,
    limits: LimitArgs,
    prices: Prices,
    budgets: Budgets,
    /// Where it is recorded who was shown personal data.
    db: DatabaseConnection,
    presence: Arc<Presence>,
}

/// A request that may run, and what it costs.
struct Admitted {
    request: Request,
    operation: OperationType,
    points: u32,
    throttle: Option<Throttle>,
}

impl Executor {
    /// Makes the schema with what its resolvers work with. Needs a Tokio runtime.
    pub fn start(services: Services) -> Self {
        let limits = services.settings.limits.clone();
        let loaders = Loaders::start(&services.db, &services.reader, &services.definitions);
        let documents = Documents::new(limits.clone());
        let settings = &services.settings;
        let budgets = Budgets::new(
            settings.burst_seconds,
            settings.shopper_points_per_second,
            settings.points_per_second,
        );
        let prices = Prices::of_schema(&sdl());
        let (db, presence) = (services.db.clone(), services.reader.presence().clone());
        let (registered, checker) = (services.door.documents().clone(), DocumentChecker::new(limits.clone()));
        let parts = Arc::new(Parts { documents, registered, limits, prices, budgets, db, presence });
        Self { schema: builder().data(services).data(loaders).data(checker).finish(), parts }
    }

    /// Executes a query or a mutation.
    pub async fn execute(&self, caller: Caller, request: Request) -> Response {
        let may_introspect = caller.may_introspect();
        let mut response = self.execute_one(caller, request).await;
        tidy(&mut response, may_introspect);
        response
    }

    /// Takes a point for the request, gives one that names a registered document its text, and refuses what its app may not
    /// execute. Executing does so as well, if it was not done; this is for who has to look at the text before.
    ///
    /// # Errors
    /// The answer to a request that is refused. Nothing was parsed.
    pub(crate) async fn settle(&self, caller: &Caller, request: &mut Request) -> Result<(), Box<Response>> {
        let Parts { registered, budgets, presence, .. } = &*self.parts;
        if deposit_of(request).is_some() {
            return Ok(());
        }
        let deposit = budgets.deposit(caller).map_err(|exhausted| Box::new(out_of_points(exhausted)))?;
        let settled = presence.unless_silent(registered::settle(registered, budgets, caller, request)).await;
        let settled = settled.unwrap_or_else(|| Err(Unsettled::Unavailable(no_answer())));
        settled.map_err(|unsettled| Box::new(unsettled_answer(request, unsettled)))?;
        request.data.insert(deposit);
        Ok(())
    }

    /// Parses the request, and fills in the text that it names by its hash. Executing does so as well; this is for who has to
    /// know what kind of operation it is before.
    ///
    /// # Errors
    /// The answer to a request that cannot be parsed or goes beyond a bound.
    pub(crate) fn parse(
        &self,
        caller: &Caller,
        request: &mut Request,
    ) -> Result<Arc<ExecutableDocument>, Box<Response>> {
        self.parts.documents.prepare(request).map_err(|error| {
            let mut refused = Response::from_errors(vec![error]);
            tidy(&mut refused, caller.may_introspect());
            Box::new(refused)
        })
    }

    async fn execute_one(&self, caller: Caller, mut request: Request) -> Response {
        match self.settle(&caller, &mut request).await {
            Ok(()) => self.execute_settled(caller, request).await,
            Err(refused) => *refused,
        }
    }

    async fn execute_settled(&self, caller: Caller, request: Request) -> Response {
        let Admitted { request, operation, points, throttle } = match self.admit(&caller, request) {
            Ok(admitted) => admitted,
            Err(refused) => return *refused,
        };
        if operation == OperationType::Subscription {
            let message = "a subscription needs a WebSocket, or accept: text/event-stream";
            return refusal(NEEDS_STREAM, message.to_owned(), |_| ());
        }
        let time = Duration::from_millis(self.parts.limits.query_timeout_ms);
        // placeOrder may be told to wait for its order, beyond what placing and reading it take.
        let time = if operation == OperationType::Query { time } else { time + MAX_WAIT };
        let (personal, id) = (PersonalData::default(), request_id(&request));
        let request = request.data(caller.clone()).data(personal.clone());
        let executed = tokio::time::timeout(time, self.schema.execute(request));
        let response = match self.parts.presence.unless_silent(executed).await {
            Some(Ok(response)) => response,
            Some(Err(_)) => refusal(TIMEOUT, too_long(operation).to_owned(), |_| ()),
            None => refusal(UNAVAILABLE, no_answer_yet(operation).to_owned(), |_| ()),
        };
        let mut response = self.parts.record_reads(&personal, &caller, &id, response).await;
        let actual = actual_cost(&response.data, operation).min(points);
        response.extensions.insert("cost".to_owned(), self.cost(points, Some(actual), throttle));
        response
    }

    /// Executes any operation; a query or a mutation has one answer.
    pub fn execute_stream(&self, caller: Caller, mut request: Request) -> BoxStream<'static, Response> {
        let (executor, may_introspect) = (self.clone(), caller.may_introspect());
        let started = async move {
            if let Err(refused) = executor.settle(&caller, &mut request).await {
                return stream::iter([*refused]).boxed();
            }
            // Looked at again when it is admitted, where the parsed query is where this look has left it.
            let operation = executor.parts.documents.prepare(&mut request).map(|document| {
                prices::operation(&document, request.operation_name.as_deref()).map(|operation| operation.ty)
            });
            if !matches!(operation, Ok(Some(OperationType::Subscription))) {
                return stream::iter([executor.execute_settled(caller, request).await]).boxed();
            }
            match executor.admit(&caller, request) {
                Ok(Admitted { request, .. }) => executor.subscribe(caller, request),
                Err(refused) => stream::iter([*refused]).boxed(),
            }
        };
        let answers = stream::once(started).flatten().map(move |mut response| {
            tidy(&mut response, may_introspect);
            response
        });
        answers.boxed()
    }

    /// Executes a subscription: one answer for each thing that happens.
    fn subscribe(&self, caller: Caller, request: Request) -> BoxStream<'static, Response> {
        let (personal, id) = (PersonalData::default(), request_id(&request));
        let request = request.data(caller.clone()).data(personal.clone());
        let (responses, parts) = (self.schema.execute_stream(request), self.parts.clone());
        let seen = (personal, parts, caller, id);
        let finished = stream::unfold((responses.boxed(), seen), async |(mut responses, seen)| {
            let response = responses.next().await?;
            let (personal, parts, caller, id) = &seen;
            let response = parts.record_reads(personal, caller, id, response).await;
            Some((response, (responses, seen)))
        });
        finished.boxed()
    }

    /// Lets a request in that is within the bounds and that the caller's budget has points for.
    ///
    /// # Errors
    /// The answer to one that is not.
    fn admit(&self, caller: &Caller, mut request: Request) -> Result<Admitted, Box<Response>> {
        let parts = &self.parts;
        let document = parts
            .documents
            .prepare(&mut request)
            .map_err(|error| Box::new(Response::from_errors(vec![error])))?;
        let name = request.operation_name.as_deref();
        let operation = prices::operation(&document, name);
        // The library notices when a field asks for it, in the middle of the execution.
        if let Some(missing) = operation.and_then(|operation| missing_variable(operation, &request.variables))
        {
            let message = format!("the variable ${missing} is required and was not given");
            return Err(Box::new(refusal(VARIABLE_MISSING, message, |_| ())));
        }
        let operation = operation.map_or(OperationType::Query, |operation| operation.ty);
        let Price { points, resolutions } = parts.prices.price(&document, name, &request.variables);
        let max_resolutions = parts.limits.max_resolutions;
        if resolutions > u64::from(max_resolutions) {
            let message = format!(
                "the request resolves up to {resolutions} fields, and one may resolve {max_resolutions}; ask for less"
            );
            let requested = u32::try_from(points).unwrap_or(u32::MAX);
            return Err(self.refuse_for(requested, refusal(QUERY_TOO_COSTLY, message, |_| ())));
        }
        let max = parts.limits.max_cost;
        let Some(points) = u32::try_from(points).ok().filter(|points| *points <= max) else {
            let message = format!("the request costs {points} points, and one may cost {max}; ask for less");
            let requested = u32::try_from(points).unwrap_or(u32::MAX);
            return Err(self.refuse_for(requested, refusal(QUERY_TOO_COSTLY, message, |_| ())));
        };
        let paid = match deposit_of(&request) {
            Some(deposit) => parts.budgets.take_rest(caller, points, deposit),
            None => parts.budgets.take(caller, points),
        };
        let throttle = paid.map_err(|exhausted| match exhausted {
            Exhausted::For(wait) => self.refuse_for(points, rate_limited(wait)),
            Exhausted::ForEver { holds } => {
                let message = format!(
                    "the request costs {points} points, and the app's budget holds {holds}; ask for less"
                );
                self.refuse_for(points, refusal(QUERY_TOO_COSTLY, message, |_| ()))
            }
        })?;
        if !caller.may_introspect() {
            // What the library calls introspection does not include what a federation's gateway asks.
            if asks_for_service(&document) {
                return Err(Box::new(refusal(
                    FORBIDDEN,
                    "the schema is shown to apps alone".to_owned(),
                    |_| (),
                )));
            }
            request = request.disable_introspection();
        }
        Ok(Admitted { request, operation, points, throttle })
    }

    /// Adds to a refusal what the request would have cost.
    fn refuse_for(&self, points: u32, mut refused: Response) -> Box<Response> {
        refused.extensions.insert("cost".to_owned(), self.cost(points, None, None));
        Box::new(refused)
    }

    fn cost(&self, requested: u32, actual: Option<u32>, throttle: Option<Throttle>) -> Value {
        value!({
            "requested": requested,
            "actual": actual,
            "limit": self.parts.limits.max_cost,
            "throttle": throttle.map(|Throttle { available, restore_rate }| {
                value!({ "available": available, "restoreRate": restore_rate })
            }),
        })
    }
}

/// Returns the name of a variable that must have a value and has none.
fn missing_variable<'a>(operation: &'a OperationDefinition, variables: &Variables) -> Option<&'a str> {
    let definitions = operation.variable_definitions.iter().map(|definition| &definition.node);
    let mut required = definitions
        .filter(|definition| !definition.var_type.node.nullable && definition.default_value.is_none());
    let missing = required
        .find(|definition| variables.get(&definition.name.node).is_none_or(|value| *value == Value::Null));
    missing.map(|definition| definition.name.node.as_str())
}

/// Whether the document asks for the schema as a federation's gateway does.
fn asks_for_service(document: &ExecutableDocument) -> bool {
    fn stands_in(selections: &SelectionSet) -> bool {
        selections.items.iter().any(|selection| match &selection.node {
            Selection::Field(field) => {
                field.node.name.node == "_service" || stands_in(&field.node.selection_set.node)
            }
            Selection::InlineFragment(fragment) => stands_in(&fragment.node.selection_set.node),
            // Looked at where it is defined.
            Selection::FragmentSpread(_) => false,
        })
    }
    let operations = document.operations.iter().map(|(_, operation)| &operation.node.selection_set.node);
    let fragments = document.fragments.values().map(|fragment| &fragment.node.selection_set.node);
    operations.chain(fragments).any(stands_in)
}

impl Parts {
    /// Records what personal data an answer shows. What cannot be recorded is not shown.
    async fn record_reads(
        &self,
        personal: &PersonalData,
        caller: &Caller,
        request_id: &str,
        response: Response,
    ) -> Response {
        let recorded = personal.finish(&self.db, caller, request_id, response);
        let silent = || refusal(UNAVAILABLE, no_answer_yet(OperationType::Query).to_owned(), |_| ());
        self.presence.unless_silent(recorded).await.unwrap_or_else(silent)
    }
}

fn too_long(operation: OperationType) -> &'static str {
    match operation {
        OperationType::Query => "the query took too long; ask for less",
        _ => "the mutation took too long and may have been carried out; repeat it with the same key",
    }
}

fn no_answer_yet(operation: OperationType) -> &'static str {
    match operation {
        OperationType::Query => "the database does not answer; try again later",
        _ => {
            "the database does not answer, and the mutation may have been carried out; repeat it with the same key"
        }
    }
}

/// Makes the answer to a request that is not executed, or not to its end.
fn refusal(code: &str, message: String, more: impl FnOnce(&mut ErrorExtensionValues)) -> Response {
    let mut error = ServerError::new(message, None);
    let extensions = error.extensions.get_or_insert_with(ErrorExtensionValues::default);
    extensions.set("code", code);
    more(extensions);
    Response::from_errors(vec![error])
}

/// Makes the answer to a request that is not parsed.
fn unsettled_answer(request: &Request, unsettled: Unsettled) -> Response {
    match unsettled {
        Unsettled::NotFound => {
            let message = "no document of this name is registered for the app; register it with addDocuments \
                           or `oms documents allow`";
            refusal(DOCUMENT_NOT_FOUND, message.to_owned(), |_| ())
        }
        Unsettled::NotAllowed => {
            let message = "the app may execute registered documents only, and this is none of them; register it \
                           with addDocuments or `oms documents allow`";
            refusal(DOCUMENT_NOT_ALLOWED, message.to_owned(), |_| ())
        }
        Unsettled::Exhausted(exhausted) => out_of_points(exhausted),
        Unsettled::Unavailable(error) => {
            warn!(
                request.id = request_id(request),
                error = chain(&error),
                "cannot look up a registered document"
            );
            let message = "the service is busy or its database cannot be reached; try again later";
            refusal(UNAVAILABLE, message.to_owned(), |_| ())
        }
    }
}

/// What the request has paid already, once it is settled.
fn deposit_of(request: &Request) -> Option<Deposit> {
    let deposit = request.data.get(&TypeId::of::<Deposit>())?;
    deposit.downcast_ref::<Deposit>().copied()
}

/// Makes the answer to a request that there is not a single point for.
fn out_of_points(exhausted: Exhausted) -> Response {
    match exhausted {
        Exhausted::For(wait) => rate_limited(wait),
        // A bucket holds a point at least.
        Exhausted::ForEver { .. } => rate_limited(Duration::ZERO),
    }
}

/// Makes the answer to a request that the app has no points for until this has passed.
fn rate_limited(wait: Duration) -> Response {
    let seconds = wait.as_secs() + 1;
    let message = format!("the app has no points left for this request; repeat it in {seconds} s");
    refusal(RATE_LIMITED, message, |extensions| extensions.set("retryAfterSeconds", seconds))
}

/// What the answer turned out to cost: its objects, and what an action costs beyond its own.
fn actual_cost(data: &Value, operation: OperationType) -> u32 {
    fn objects(value: &Value) -> u32 {
        match value {
            Value::Object(fields) => 1 + fields.values().map(objects).sum::<u32>(),
            Value::List(items) => items.iter().map(objects).sum(),
            _ => 0,
        }
    }
    let base = if operation == OperationType::Query { 0 } else { 9 };
    // The root is no object of anybody's.
    (objects(data).saturating_sub(1) + base).max(1)
}

/// Makes an answer fit to be sent: its errors are bounded, each has a code, and none suggests names of the schema to
/// callers who are not shown it.
///
/// Without the bound an answer could be larger than its question: a query of ten thousand mistakes has as many errors, and
/// a syntax error quotes the line it is in.
fn tidy(response: &mut Response, may_introspect: bool) {
    response.errors.truncate(MAX_ERRORS);
    for error in &mut response.errors {
        if !may_introspect && let Some(at) = error.message.find(" Did you mean") {
            error.message.truncate(at);
        }
        if let Some((end, _)) = error.message.char_indices().nth(MAX_ERROR_CHARS) {
            error.message.truncate(end);
        }
        let was_executed = !error.path.is_empty();
        let extensions = error.extensions.get_or_insert_with(ErrorExtensionValues::default);
        if extensions.get("code").is_none() {
            // Ours have codes; the library's are about the query as such, or about the value of an argument.
            extensions.set("code", if was_executed { INVALID_INPUT } else { VALIDATION_FAILED });
        }
    }
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").field("parts", &self.parts).finish_non_exhaustive()
    }
}
