//! Who calls, and what they may do.
//!
//! A [`Caller`] is made at the door, once per request or socket, from its credential; everything behind the door only
//! asks it. Roots of the schema name the scopes that they need ([`Needs`], [`NeedsAll`]); queries on orders take the caller's
//! [`Visibility`] along.
//!
//! Kept apart: *authorize* is what a payment gateway does with a card. Here it is callers and what they may do.

pub(crate) mod address;
pub(crate) mod budget;
pub(crate) mod documents;
pub mod door;
mod jwks;
pub mod jwt;
mod order_token;
pub(crate) mod personal_data;
mod provider;
mod remembered;
pub(crate) mod sealed_cursor;
pub(crate) mod streams;

use std::sync::Arc;

use async_graphql::{Context, Error, ErrorExtensions, Guard, Result};
use domain::app::{Scope, Scopes, Visibility, store};
use domain::id::{AppId, local_app};
use uuid::Uuid;

/// `extensions.code` of a request without a credential, or with one that is not good.
pub const UNAUTHENTICATED: &str = "UNAUTHENTICATED";

/// `extensions.code` of a field that the caller's credential does not open.
pub const FORBIDDEN: &str = "FORBIDDEN";

/// Who calls. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caller(Arc<Facts>);

#[derive(Debug)]
struct Facts {
    app_id: AppId,
    app_name: String,
    scopes: Scopes,
    visibility: Visibility,
    points_per_second: Option<u32>,
    /// The app's own number, where it has one; 0 for no limit.
    points_of_app: Option<u32>,
    only_registered_documents: bool,
    kind: Kind,
}

/// By what a caller is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An app, by one of its keys (which has this id) or by a token of an identity provider.
    App {
        /// Of the key; none with a token.
        key_id: Option<Uuid>,
    },
    /// A shopper, by the access token of one order.
    Shopper {
        /// The order.
        order_id: Uuid,
    },
    /// Nobody in particular, on a server that was started with `--dev-anonymous`.
    Anonymous,
}

/// Among whose requests and streams a caller's count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// An app, by its keys and tokens.
    App(Uuid),
    /// Whoever has an access token of this order.
    Order(Uuid),
    /// Whoever has an access token of any order of this app.
    ShoppersOf(Uuid),
}

impl Caller {
    /// An app. It sees its own orders and those of the apps that `granted` lists; every order with the scope for that.
    pub fn app(
        app: &store::App,
        scopes: Scopes,
        granted: &[Uuid],
        points_per_second: Option<u32>,
        key_id: Option<Uuid>,
    ) -> Self {
        let visibility = if scopes.contain(Scope::OrdersReadAll) {
            Visibility::All
        } else {
            Visibility::Apps(std::iter::once(app.id).chain(granted.iter().copied()).collect())
        };
        Self(Arc::new(Facts {
            app_id: AppId::from_uuid(app.id),
            app_name: app.name.clone(),
            scopes,
            visibility,
            points_per_second,
            points_of_app: app.points_per_second.and_then(|points| u32::try_from(points).ok()),
            only_registered_documents: app.only_registered_documents,
            kind: Kind::App { key_id },
        }))
    }

    /// A shopper, who follows one order and sees nothing personal: a link with its token may have been passed on. It has no
    /// scope: what it may do is what [`MayFollow`] opens. `app` has placed the order.
    pub fn shopper(app: &store::App, order_id: Uuid, points_per_second: Option<u32>) -> Self {
        Self(Arc::new(Facts {
            app_id: AppId::from_uuid(app.id),
            app_name: "shopper".to_owned(),
            scopes: Scopes::default(),
            visibility: Visibility::Order(order_id),
            points_per_second,
            points_of_app: app.points_per_second.and_then(|points| u32::try_from(points).ok()),
            only_registered_documents: app.only_registered_documents,
            kind: Kind::Shopper { order_id },
        }))
    }

    /// The shop itself, with every scope: who calls a server that asks for no credentials.
    pub fn anonymous() -> Self {
        Self(Arc::new(Facts {
            app_id: local_app(),
            app_name: "shop".to_owned(),
            scopes: Scopes::all(),
            visibility: Visibility::All,
            points_per_second: None,
            points_of_app: None,
            only_registered_documents: false,
            kind: Kind::Anonymous,
        }))
    }

    /// The app that calls, or that has placed the order whose token calls.
    pub fn app_id(&self) -> AppId {
        self.0.app_id
    }

    /// The app's name.
    pub fn app_name(&self) -> &str {
        &self.0.app_name
    }

    /// What it may do.
    pub fn scopes(&self) -> Scopes {
        self.0.scopes
    }

    /// Whether it may do this.
    pub fn may(&self, scope: Scope) -> bool {
        self.0.scopes.contain(scope)
    }

    /// Which orders it sees.
    pub fn visibility(&self) -> &Visibility {
        &self.0.visibility
    }

    /// Points that flow back into its budget in a second; none for a caller without a limit.
    pub fn points_per_second(&self) -> Option<u32> {
        self.0.points_per_second
    }

    /// The number that the app has of its own, whose shopper it may be; 0 for no limit.
    pub(crate) fn points_of_app(&self) -> Option<u32> {
        self.0.points_of_app
    }

    /// Names what it came in with, for people who look into what was done.
    pub(crate) fn credential(&self) -> String {
        match self.0.kind {
            Kind::App { key_id: Some(key_id) } => format!("app {}, key {key_id}", self.0.app_name),
            Kind::App { key_id: None } => format!("app {}, access token", self.0.app_name),
            Kind::Shopper { order_id } => format!("access token of order {order_id}"),
            Kind::Anonymous => "anonymous".to_owned(),
        }
    }

    /// Whether it may execute nothing but documents that are registered for its app.
    pub fn only_registered_documents(&self) -> bool {
        self.0.only_registered_documents
    }

    /// Among whose requests and streams its own count. A shopper's are the order's own: whoever has a link to one order
    /// must not be able to use up what the shop lives on.
    pub(crate) fn holder(&self) -> Holder {
        match self.0.kind {
            Kind::Shopper { order_id } => Holder::Order(order_id),
            Kind::App { .. } | Kind::Anonymous => Holder::App(self.0.app_id.uuid()),
        }
    }

    /// Among whose a shopper's count as well: placing more orders must not open more than a shop's shoppers need together.
    pub(crate) fn holder_together(&self) -> Option<Holder> {
        match self.0.kind {
            Kind::Shopper { .. } => Some(Holder::ShoppersOf(self.0.app_id.uuid())),
            Kind::App { .. } | Kind::Anonymous => None,
        }
    }

    /// By what it is known.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Whether it holds a credential of an app: only then is the schema shown to it.
    pub fn may_introspect(&self) -> bool {
        !matches!(self.0.kind, Kind::Shopper { .. })
    }
}

/// Returns who calls.
///
/// # Errors
/// The door has let a request in without saying who it is, which it never does.
pub(crate) fn caller<'ctx>(ctx: &Context<'ctx>) -> Result<&'ctx Caller> {
    ctx.data_opt::<Caller>().ok_or_else(|| {
        let message = "the request has no caller";
        Error::new(message).extend_with(|_, extensions| extensions.set("code", UNAUTHENTICATED))
    })
}

/// Opens a field to whoever may follow an order: apps that read orders, and the shopper with the order's token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MayFollow;

impl Guard for MayFollow {
    async fn check(&self, ctx: &Context<'_>) -> Result<()> {
        match caller(ctx)?.kind() {
            Kind::Shopper { .. } => Ok(()),
            _ => Needs([Scope::OrdersRead]).check(ctx).await,
        }
    }
}

/// Opens a field to every app, whatever its scopes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NeedsApp;

impl Guard for NeedsApp {
    async fn check(&self, ctx: &Context<'_>) -> Result<()> {
        match caller(ctx)?.kind() {
            Kind::Shopper { .. } => Err(forbidden("this is for apps".to_owned())),
            _ => Ok(()),
        }
    }
}

fn forbidden(message: String) -> Error {
    Error::new(message).extend_with(|_, extensions| extensions.set("code", FORBIDDEN))
}

/// Opens a field to callers with at least one of these scopes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needs<const N: usize>(pub(crate) [Scope; N]);

impl<const N: usize> Guard for Needs<N> {
    async fn check(&self, ctx: &Context<'_>) -> Result<()> {
        let caller = caller(ctx)?;
        if self.0.iter().any(|scope| caller.may(*scope)) {
            return Ok(());
        }
        let scopes = self.0.map(Scope::name).join(" or ");
        let message = format!("this needs the scope {scopes}, which the caller does not have");
        Err(forbidden(message))
    }
}

/// Opens a field to callers with all of these scopes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NeedsAll<const N: usize>(pub(crate) [Scope; N]);

impl<const N: usize> Guard for NeedsAll<N> {
    async fn check(&self, ctx: &Context<'_>) -> Result<()> {
        let caller = caller(ctx)?;
        if self.0.iter().all(|scope| caller.may(*scope)) {
            return Ok(());
        }
        let scopes = self.0.map(Scope::name).join(" and ");
        let message = format!("this needs the scopes {scopes} together, which the caller does not have");
        Err(forbidden(message))
    }
}

/// What operating sagas takes. A saga is an order's, and whoever moves one sees what it belongs to: those of every app.
pub(crate) const OPERATES: NeedsAll<2> = NeedsAll([Scope::SagasOperate, Scope::OrdersReadAll]);
