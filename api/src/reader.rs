//! Reading orders on a caller's behalf, with the database's own row-level security behind every query.
//!
//! Each query on orders already says which rows its caller sees. Here the database is told as well: the connections act as
//! the role `oms_reader`, which may only read, and which sees no order until its transaction has named who looks. A query
//! that forgets its condition then finds nothing that it should not.

use domain::app::Visibility;
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, TransactionTrait};

/// A pool of connections for reading. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader(DatabaseConnection);

impl Reader {
    /// Reads over a pool that [`connect_reader`](crate::postgres::Database::connect_reader) has opened.
    pub fn new(pool: DatabaseConnection) -> Self {
        Self(pool)
    }

    /// Begins a transaction that sees what a caller sees. It only reads, so that dropping it ends it as well as a commit.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn begin(&self, visibility: &Visibility) -> Result<DatabaseTransaction, DbErr> {
        let tx = self.0.begin().await?;
        tx.execute_unprepared(&format!("SET LOCAL oms.visibility = '{}'", setting(visibility))).await?;
        Ok(tx)
    }
}

/// Returns the value of the setting `oms.visibility`, whose form the policies' migration explains. Nothing in it needs
/// quotes: it is made of ids.
fn setting(visibility: &Visibility) -> String {
    match visibility {
        Visibility::All => "all".to_owned(),
        Visibility::Apps(apps) => {
            let apps: Vec<String> = apps.iter().map(ToString::to_string).collect();
            format!("apps:{{{}}}", apps.join(","))
        }
        Visibility::Order(id) => format!("order:{id}"),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn each_visibility_has_a_setting_of_its_own() {
        let (left, right) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(setting(&Visibility::All), "all");
        assert_eq!(setting(&Visibility::Apps([left, right].into())), format!("apps:{{{left},{right}}}"));
        assert_eq!(setting(&Visibility::Apps([].into())), "apps:{}");
        assert_eq!(setting(&Visibility::Order(left)), format!("order:{left}"));
    }
}
