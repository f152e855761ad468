//! Identifiers as people and programs see them: a type prefix and a UUIDv7 (TypeID, version 0.3), such as
//! `order_01jx2v3q8kf0v8c9m5w6r7t2ab`. The database holds the bare UUID.

use type_safe_id::{StaticType, TypeSafeId};
use uuid::Uuid;

/// Marks the identifier of an order.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderTag;

impl StaticType for OrderTag {
    const TYPE: &'static str = "order";
}

/// Names an order. Knowing it grants nothing.
pub type OrderId = TypeSafeId<OrderTag>;

/// Marks the identifier of an app.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppTag;

impl StaticType for AppTag {
    const TYPE: &'static str = "app";
}

/// Names an app: an API client with credentials of its own.
pub type AppId = TypeSafeId<AppTag>;

/// Marks the identifier of an API key.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyTag;

impl StaticType for KeyTag {
    const TYPE: &'static str = "key";
}

/// Names an API key. It is not the key's secret.
pub type KeyId = TypeSafeId<KeyTag>;

/// The shop itself: the app on whose behalf its own command line and callers without credentials act.
pub fn local_app() -> AppId {
    AppId::from_uuid(Uuid::nil())
}
