//! Apps: who calls, what they may do, and which orders they see.
//!
//! An app is an API client with credentials of its own. What it may *do* is its [`Scopes`]; which *rows* it sees is its
//! [`Visibility`]. Both are values here: who the caller is gets decided at the door (`oms::access`), and every query on
//! orders takes a [`Visibility`] into its `WHERE` clause.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

pub mod document;
pub mod key;
pub mod store;

/// One thing that a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Read orders, without personal data.
    OrdersRead,
    /// Read e-mail and addresses as well.
    OrdersReadPii,
    /// Read the orders of every app.
    OrdersReadAll,
    /// Place orders; implies reading them.
    OrdersWrite,
    /// Change products and stock.
    CatalogWrite,
    /// See and move sagas, beside reading the orders of every app.
    SagasOperate,
    /// Make apps and keys, and take them away.
    AppsManage,
}

impl Scope {
    /// Every scope there is, in the order in which people are shown them.
    pub const ALL: [Self; 7] = [
        Self::OrdersRead,
        Self::OrdersReadPii,
        Self::OrdersReadAll,
        Self::OrdersWrite,
        Self::CatalogWrite,
        Self::SagasOperate,
        Self::AppsManage,
    ];

    /// Its name in keys, tokens and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::OrdersRead => "orders:read",
            Self::OrdersReadPii => "orders:read_pii",
            Self::OrdersReadAll => "orders:read_all",
            Self::OrdersWrite => "orders:write",
            Self::CatalogWrite => "catalog:write",
            Self::SagasOperate => "sagas:operate",
            Self::AppsManage => "apps:manage",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no scope of this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no scope {0:?}; there are orders:read, orders:read_pii, orders:read_all, orders:write, catalog:write, sagas:operate and apps:manage"
)]
pub struct UnknownScope(pub String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(name: &str) -> Result<Self, UnknownScope> {
        Self::ALL.into_iter().find(|scope| scope.name() == name).ok_or_else(|| UnknownScope(name.to_owned()))
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// Every scope.
    pub fn all() -> Self {
        Scope::ALL.into_iter().collect()
    }

    /// Whether it holds the scope, or one that implies it: writing implies reading.
    pub fn contain(self, scope: Scope) -> bool {
        let holds = |scope: Scope| self.0 & Self::bit(scope) != 0;
        holds(scope) || (scope == Scope::OrdersRead && holds(Scope::OrdersWrite))
    }

    /// Whether everything that `others` allow is allowed here.
    pub fn include(self, others: Self) -> bool {
        others.iter().all(|scope| self.contain(scope))
    }

    /// The scopes as they were given, without those that are only implied.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.0 & Self::bit(*scope) != 0)
    }

    /// Their names.
    pub fn names(self) -> Vec<String> {
        self.iter().map(|scope| scope.name().to_owned()).collect()
    }

    fn bit(scope: Scope) -> u8 {
        1 << scope as u8
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | Self::bit(scope)))
    }
}

/// Which orders a caller sees. What it does not see does not exist for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Every order: for operators.
    All,
    /// The orders that one of these apps has placed: its own, and those that its row filter grants.
    Apps(Arc<[Uuid]>),
    /// One order: for a shopper who holds its access token.
    Order(Uuid),
}

impl Visibility {
    /// The orders of one app.
    pub fn of_app(app_id: Uuid) -> Self {
        Self::Apps([app_id].into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_implies_reading_and_nothing_else() {
        let scopes: Scopes = [Scope::OrdersWrite].into_iter().collect();
        assert!(scopes.contain(Scope::OrdersRead));
        for scope in [Scope::OrdersReadPii, Scope::OrdersReadAll, Scope::CatalogWrite, Scope::AppsManage] {
            assert!(!scopes.contain(scope), "{scope}");
        }
        assert_eq!(scopes.names(), ["orders:write"]);
    }

    #[test]
    fn each_scope_is_read_back_from_its_name() {
        for scope in Scope::ALL {
            assert_eq!(scope.name().parse(), Ok(scope));
        }
        assert!("orders".parse::<Scope>().is_err());
        assert_eq!(Scopes::all().iter().count(), Scope::ALL.len());
    }
}
