//! What can go wrong, as clients see it.
//!
//! What a caller can act on is a user error: a value in the payload, with a type, a code, a path and the facts. It
//! means that nothing was written. Everything else is one opaque top-level error with `extensions.code` (INTERNAL,
//! UNAVAILABLE or OVERLOADED) and the id under which its cause is in the log.

use async_graphql::{Context, Enum, Error, ErrorExtensions, ID, Interface, Result, SimpleObject};
use domain::input::Violation;
use domain::order::place::Refusal;
use domain::stock::adjust::AdjustStockError;
use saga::engine::StepError;
use saga::engine::operate::ActError;
use sea_orm::DbErr;

use super::long::Long;
use super::money::{CurrencyCode, Money};
use crate::database_error::{Trouble, classify};
use crate::placing::PlacingError;
use crate::telemetry::chain;

/// The request's id, as the log and the client know it.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// `extensions.code` of a failure whose cause the client cannot know.
pub const INTERNAL: &str = "INTERNAL";

/// `extensions.code` while the database cannot be reached or is too busy: ask again later.
pub const UNAVAILABLE: &str = "UNAVAILABLE";

/// `extensions.code` while too many requests are waiting: ask again later.
pub const OVERLOADED: &str = "OVERLOADED";

/// Which user error it is. Clients should treat a code they do not know as INVALID_INPUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
pub(super) enum ErrorCode {
    /// A field is not as it must be; `message` says what would be right.
    InvalidInput,
    /// The catalog has no such SKU.
    UnknownSku,
    /// Amounts that belong together are in different currencies.
    CurrencyMismatch,
    /// The order costs another amount than `expectedTotal`.
    PriceChanged,
    /// The idempotency key was used before, with another input.
    IdempotencyKeyReused,
    /// Fewer units are available than were asked for.
    InsufficientStock,
    /// The units on hand are not `expectedOnHand` any more.
    StockChanged,
    /// There is no order of this id.
    NotFound,
    /// A runner has the order's saga in hand, or an answer is awaited.
    SagaBusy,
    /// The order's saga is over.
    SagaOver,
    /// The act does not fit where the order's saga is.
    ActNotPossible,
}

/// Something the caller can act on. Nothing was written.
#[derive(Debug, Interface)]
#[graphql(
    field(
        name = "code",
        ty = "&ErrorCode",
        desc = "Which error it is, for programs. Example: `INVALID_INPUT`"
    ),
    field(
        name = "message",
        ty = "&String",
        desc = "What is wrong and what would be right, for people. Example: `must be between 1 and 1000000`"
    ),
    field(
        name = "path",
        ty = "&Vec<String>",
        desc = "Field names and list positions from the argument's root. Example: `input`, `lines`, `0`, `quantity`"
    )
)]
pub(super) enum UserError {
    /// A field is not as it must be.
    InvalidInput(InvalidInputError),
    /// The catalog has no such SKU.
    UnknownSku(UnknownSkuError),
    /// Two currencies met.
    CurrencyMismatch(CurrencyMismatchError),
    /// Another price.
    PriceChanged(PriceChangedError),
    /// A key with two inputs.
    IdempotencyKeyReused(IdempotencyKeyReusedError),
    /// Too few units.
    InsufficientStock(InsufficientStockError),
    /// Another count.
    StockChanged(StockChangedError),
    /// No such order.
    NotFound(NotFoundError),
    /// A saga in other hands.
    SagaBusy(SagaBusyError),
    /// A saga that is over.
    SagaOver(SagaOverError),
    /// An act that does not fit.
    ActNotPossible(ActNotPossibleError),
}

/// Declares a user error: the three fields that all have, and its own facts.
macro_rules! user_error {
    ($(#[$doc:meta])* $name:ident { $($(#[$fact_doc:meta])* $fact:ident: $ty:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, SimpleObject)]
        pub(super) struct $name {
            /// Which error it is, for programs. Example: `INVALID_INPUT`
            code: ErrorCode,
            /// What is wrong and what would be right, for people. Example: `must be between 1 and 1000000`
            message: String,
            /// Field names and list positions from the argument's root. Example: `input`, `lines`, `0`, `quantity`
            path: Vec<String>,
            $($(#[$fact_doc])* $fact: $ty,)*
        }
    };
}

user_error! {
    /// A field is not as it must be; `path` names it and `message` says what would be right.
    InvalidInputError {}
}

user_error! {
    /// The catalog has no such SKU; correct it, or create the product with `upsertProducts`.
    UnknownSkuError {
        /// The SKU that was given. Example: `SKU-9`
        sku: String,
    }
}

user_error! {
    /// Amounts that belong together are in different currencies: all lines of an order and its expected total share one.
    CurrencyMismatchError {
        /// The currency of the order, which its first line decides. Example: `USD`
        expected: CurrencyCode,
        /// The currency of the field that `path` names. Example: `EUR`
        actual: CurrencyCode,
    }
}

user_error! {
    /// The order costs another amount than the shopper was shown; show the new one and ask again.
    PriceChangedError {
        /// The total that was given as `expectedTotal`.
        expected: Money,
        /// The total that the order would have now: items, shipping and tax.
        actual: Money,
    }
}

user_error! {
    /// The idempotency key was used before, with another input; use a fresh key for each order or adjustment.
    IdempotencyKeyReusedError {}
}

user_error! {
    /// Fewer units are available than the call would take.
    InsufficientStockError {
        /// The SKU of which there is not enough. Example: `SKU-1`
        sku: String,
        /// Units asked for. Example: `12`
        requested: Long,
        /// Units that are not promised to any order. Example: `10`
        available: Long,
    }
}

user_error! {
    /// Somebody else changed the count in between; read the stock again and repeat.
    StockChangedError {
        /// Units on hand that were given as `expectedOnHand`. Example: `12`
        expected: Long,
        /// Units on hand now. Example: `10`
        actual: Long,
    }
}

user_error! {
    /// There is no order of this id.
    NotFoundError {
        /// The id that was given. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`
        order_id: ID,
    }
}

user_error! {
    /// A runner has the order's saga in hand, or an answer is awaited; try again in a moment. It was left as it is.
    SagaBusyError {
        /// The order. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`
        order_id: ID,
    }
}

user_error! {
    /// The order's saga is over; nothing can be done to it any more.
    SagaOverError {
        /// The order. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`
        order_id: ID,
    }
}

user_error! {
    /// The act does not fit where the order's saga is; `message` says what would. It was left as it is.
    ActNotPossibleError {
        /// The order. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`
        order_id: ID,
    }
}

/// Returns a path that starts at the argument, as all paths do.
fn at(fields: &[&str]) -> Vec<String> {
    std::iter::once("input").chain(fields.iter().copied()).map(str::to_owned).collect()
}

impl From<Violation> for UserError {
    fn from(violation: Violation) -> Self {
        let Violation { path, message } = violation.within(&["input"]);
        InvalidInputError { code: ErrorCode::InvalidInput, message, path }.into()
    }
}

impl UserError {
    /// Makes the user error of an argument, which these fields lead to, that is not as it must be.
    pub(super) fn at(path: &[&str], message: String) -> Self {
        let path = path.iter().map(|&field| field.to_owned()).collect();
        InvalidInputError { code: ErrorCode::InvalidInput, message, path }.into()
    }
}

impl From<Refusal> for UserError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(violation) => violation.into(),
            Refusal::UnknownSku { line, sku } => unknown_sku(at(&["lines", &line.to_string(), "sku"]), sku),
            Refusal::CurrencyMismatch { path, expected, actual } => CurrencyMismatchError {
                code: ErrorCode::CurrencyMismatch,
                message: format!("must be in {expected}, as the first line is; it is in {actual}"),
                path: at(&path.iter().map(String::as_str).collect::<Vec<_>>()),
                expected: expected.into(),
                actual: actual.into(),
            }
            .into(),
            Refusal::PriceChanged { expected, actual } => PriceChangedError {
                code: ErrorCode::PriceChanged,
                message: format!("the order costs {actual}, not {expected}"),
                path: at(&["expectedTotal"]),
                expected: expected.into(),
                actual: actual.into(),
            }
            .into(),
            Refusal::IdempotencyKeyReused => key_reused("order"),
        }
    }
}

impl UserError {
    /// Makes the user error of a refused adjustment of `sku`.
    pub(super) fn of_adjustment(sku: &str, refusal: AdjustStockError) -> Self {
        let message = refusal.to_string();
        match refusal {
            AdjustStockError::UnknownSku { sku } => unknown_sku(at(&["sku"]), sku),
            AdjustStockError::StockChanged { expected, actual } => StockChangedError {
                code: ErrorCode::StockChanged,
                message,
                path: at(&["expectedOnHand"]),
                expected: expected.into(),
                actual: actual.into(),
            }
            .into(),
            AdjustStockError::InsufficientStock { requested, available } => InsufficientStockError {
                code: ErrorCode::InsufficientStock,
                message,
                path: at(&[]),
                sku: sku.to_owned(),
                requested: requested.into(),
                available: available.into(),
            }
            .into(),
            AdjustStockError::TooMany => Violation::new(&[], message).into(),
            AdjustStockError::IdempotencyKeyReused => key_reused("adjustment"),
        }
    }
}

impl UserError {
    /// Makes the user error of a refused act on the saga of an order; `fields` lead to what named the order.
    ///
    /// # Errors
    /// What the caller cannot act on.
    pub(super) fn of_act(fields: &[&str], order_id: &ID, error: ActError) -> Result<Self, ActError> {
        let (path, order_id, message) = (at(fields), order_id.clone(), error.to_string());
        Ok(match error {
            ActError::Missing => {
                let message = format!("there is no order {:?}", order_id.as_str());
                NotFoundError { code: ErrorCode::NotFound, message, path, order_id }.into()
            }
            ActError::Busy => SagaBusyError { code: ErrorCode::SagaBusy, message, path, order_id }.into(),
            ActError::Over => SagaOverError { code: ErrorCode::SagaOver, message, path, order_id }.into(),
            ActError::NotPossible { .. } | ActError::UnknownDefinition { .. } => {
                ActNotPossibleError { code: ErrorCode::ActNotPossible, message, path, order_id }.into()
            }
            ActError::Record(_) | ActError::Database(_) => return Err(error),
        })
    }
}

fn unknown_sku(path: Vec<String>, sku: String) -> UserError {
    let message = format!("no product has the SKU {sku:?}; create it with upsertProducts first");
    UnknownSkuError { code: ErrorCode::UnknownSku, message, path, sku }.into()
}

fn key_reused(thing: &str) -> UserError {
    let message = format!("the key was used before with another input; use a fresh key for each {thing}");
    IdempotencyKeyReusedError {
        code: ErrorCode::IdempotencyKeyReused,
        message,
        path: at(&["idempotencyKey"]),
    }
    .into()
}

/// Ends the travel of an error that no caller can act on: its cause goes to the log, once, and the client gets a code
/// and the id to ask about.
pub(super) trait OrReport<T> {
    /// Returns the value, or reports that we failed to `do_what`.
    fn or_report(self, ctx: &Context<'_>, do_what: &'static str) -> Result<T>;
}

impl<T> OrReport<T> for Result<T, DbErr> {
    fn or_report(self, ctx: &Context<'_>, do_what: &'static str) -> Result<T> {
        self.map_err(|error| report(ctx, do_what, code_of(&error), &error))
    }
}

impl<T> OrReport<T> for Result<T, ActError> {
    fn or_report(self, ctx: &Context<'_>, do_what: &'static str) -> Result<T> {
        self.map_err(|error| match &error {
            ActError::Database(cause) | ActError::Record(StepError::Database(cause)) => {
                report(ctx, do_what, code_of(cause), cause)
            }
            ActError::Record(cause) => report(ctx, do_what, INTERNAL, cause),
            _ => report(ctx, do_what, INTERNAL, &error),
        })
    }
}

impl<T> OrReport<T> for Result<T, PlacingError> {
    fn or_report(self, ctx: &Context<'_>, do_what: &'static str) -> Result<T> {
        self.map_err(|error| match &error {
            PlacingError::Overloaded => report(ctx, do_what, OVERLOADED, &error),
            PlacingError::BrokenOff => report(ctx, do_what, UNAVAILABLE, &error),
            PlacingError::Database(cause) => report(ctx, do_what, code_of(cause), cause),
        })
    }
}

fn code_of(error: &DbErr) -> &'static str {
    match classify(error) {
        // A conflict that was lost again and again means a database that is too busy.
        Trouble::Unavailable | Trouble::Conflict => UNAVAILABLE,
        Trouble::Other => INTERNAL,
    }
}

fn report(ctx: &Context<'_>, do_what: &str, code: &'static str, cause: &dyn std::error::Error) -> Error {
    let request_id = ctx.data_opt::<RequestId>().map_or("none", |id| id.0.as_str());
    let error = chain(cause);
    let message = if code == INTERNAL {
        tracing::error!(request.id = request_id, error, "cannot {do_what}");
        "internal error"
    } else {
        tracing::warn!(request.id = request_id, code, error, "cannot {do_what}");
        "the service is busy or its database cannot be reached; try again later"
    };
    Error::new(message).extend_with(|_, extensions| {
        extensions.set("code", code);
        extensions.set("requestId", request_id);
    })
}
