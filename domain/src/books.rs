//! Re-derives stock, money and event numbers from the ledgers and says where they disagree.
//!
//! Each rule is one query that returns the rows which break it; all of them run in one read-only snapshot, so that
//! orders on their way do not look like errors.

use sea_orm::{
    AccessMode, ConnectionTrait, DatabaseConnection, DbErr, FromQueryResult, IsolationLevel, TransactionTrait,
};

use crate::sql::statement;

/// The most violations of one rule that a report lists.
const MAX_LISTED: u64 = 20;

/// What was looked at and what was found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How many rows of each kind were checked.
    pub counts: Vec<(&'static str, i64)>,
    /// What is wrong; up to 20 for each rule.
    pub violations: Vec<Violation>,
}

/// One row that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule, as a sentence.
    pub rule: &'static str,
    /// The row and its figures.
    pub detail: String,
}

impl Report {
    /// Returns whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// Adds another report's counts and violations.
    pub fn merge(&mut self, other: Self) {
        self.counts.extend(other.counts);
        self.violations.extend(other.violations);
    }
}

/// A rule of the books: a sentence, and the query that finds the rows which break it.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// What must hold.
    pub sentence: &'static str,
    /// A query with one text column `detail`, one row per violation.
    pub query: &'static str,
}

/// A kind of row to be counted: its name and its table, or a condition on one.
pub type Count = (&'static str, &'static str);

#[derive(FromQueryResult)]
struct Detail {
    detail: String,
}

#[derive(FromQueryResult)]
struct Counted {
    count: i64,
}

/// Counts rows and checks rules, all in one snapshot.
///
/// # Errors
/// Any error of the database.
pub async fn audit(db: &DatabaseConnection, counts: &[Count], rules: &[Rule]) -> Result<Report, DbErr> {
    let snapshot =
        db.begin_with_config(Some(IsolationLevel::RepeatableRead), Some(AccessMode::ReadOnly)).await?;
    // The only statement of the program that may take long, and it takes no lock.
    snapshot.execute_unprepared("SET LOCAL statement_timeout = '10min'").await?;
    let mut report = Report::default();
    for &(name, source) in counts {
        let query = statement(&format!("SELECT count(*) AS count FROM {source}"), []);
        let counted = Counted::find_by_statement(query).one(&snapshot).await?;
        report.counts.push((name, counted.map_or(0, |row| row.count)));
    }
    for rule in rules {
        let query =
            statement(&format!("SELECT detail FROM ({}) AS broken LIMIT {MAX_LISTED}", rule.query), []);
        let broken = Detail::find_by_statement(query).all(&snapshot).await?;
        report
            .violations
            .extend(broken.into_iter().map(|row| Violation { rule: rule.sentence, detail: row.detail }));
    }
    snapshot.commit().await?;
    Ok(report)
}

/// Checks the books of stock, payments and events.
///
/// # Errors
/// Any error of the database.
pub async fn verify(db: &DatabaseConnection) -> Result<Report, DbErr> {
    audit(db, COUNTS, RULES).await
}

const COUNTS: &[Count] = &[
    ("orders", "orders"),
    ("pending orders", "orders WHERE status = 'PENDING'"),
    ("confirmed orders", "orders WHERE status = 'CONFIRMED'"),
    ("failed orders", "orders WHERE status = 'FAILED'"),
    ("order lines", "order_lines"),
    ("events", "order_events"),
    ("stock rows", "stock"),
    ("open reservations", "reservations WHERE status IN ('HELD', 'CONFIRMED')"),
    ("payments", "payments"),
];

const RULES: &[Rule] = &[
    Rule {
        sentence: "on hand is the sum of the stock movements",
        query: "SELECT format('%s: on hand %s, movements %s', sku, on_hand, coalesce(moved.units, 0)) AS detail
                FROM stock LEFT JOIN (SELECT sku, sum(delta) AS units FROM stock_movements GROUP BY sku) AS moved USING (sku)
                WHERE on_hand <> coalesce(moved.units, 0)",
    },
    Rule {
        sentence: "reserved is the sum of the open reservations",
        query: "SELECT format('%s: reserved %s, open reservations %s', sku, reserved, coalesce(open.units, 0)) AS detail
                FROM stock LEFT JOIN (SELECT sku, sum(quantity) AS units FROM reservations
                                      WHERE status IN ('HELD', 'CONFIRMED') GROUP BY sku) AS open USING (sku)
                WHERE reserved <> coalesce(open.units, 0)",
    },
    Rule {
        sentence: "a stock row lies between nothing reserved and everything reserved",
        query: "SELECT format('%s: on hand %s, reserved %s', sku, on_hand, reserved) AS detail
                FROM stock WHERE on_hand < 0 OR reserved < 0 OR reserved > on_hand",
    },
    Rule {
        sentence: "a confirmed order holds what its lines ask for of each SKU, a failed one holds nothing",
        query: "SELECT format('order %s (%s), %s: lines %s, confirmed %s, held %s', orders.id, orders.status, units.sku,
                              units.asked, units.confirmed, units.held) AS detail
                FROM orders
                JOIN (SELECT order_id, sku, sum(asked) AS asked, sum(confirmed) AS confirmed, sum(held) AS held
                      FROM (SELECT order_id, sku, quantity AS asked, 0 AS confirmed, 0 AS held FROM order_lines UNION ALL
                            SELECT order_id, sku, 0, CASE status WHEN 'CONFIRMED' THEN quantity ELSE 0 END,
                                   CASE status WHEN 'HELD' THEN quantity ELSE 0 END FROM reservations) AS one
                      GROUP BY order_id, sku) AS units ON units.order_id = orders.id
                WHERE (orders.status = 'CONFIRMED' AND (units.confirmed <> units.asked OR units.held <> 0))
                   OR (orders.status = 'FAILED' AND (units.confirmed <> 0 OR units.held <> 0))",
    },
    Rule {
        sentence: "a confirmed order has one net capture of its total",
        query: "SELECT format('order %s: total %s, net capture %s', orders.id, orders.total_minor,
                              coalesce(payments.captured_minor - payments.refunded_minor, 0)) AS detail
                FROM orders LEFT JOIN payments ON payments.order_id = orders.id
                WHERE orders.status IN ('CONFIRMED', 'COMPLETED')
                  AND coalesce(payments.captured_minor - payments.refunded_minor, 0) IS DISTINCT FROM orders.total_minor",
    },
    Rule {
        sentence: "a failed or canceled order has no net capture and no open authorization",
        query: "SELECT format('order %s (%s): authorized %s, captured %s, refunded %s, void %s', orders.id, orders.status,
                              authorized_minor, captured_minor, refunded_minor, voided_at) AS detail
                FROM orders JOIN payments ON payments.order_id = orders.id
                WHERE orders.status IN ('FAILED', 'CANCELED')
                  AND (captured_minor <> refunded_minor
                       OR (authorized_minor > 0 AND captured_minor = 0 AND voided_at IS NULL))",
    },
    Rule {
        sentence: "an order's events are numbered from 1 to its sequence without a gap",
        query: "SELECT format('order %s: sequence %s, events %s, from %s to %s', orders.id, orders.sequence,
                              coalesce(told.events, 0), told.first, told.last) AS detail
                FROM orders
                LEFT JOIN (SELECT order_id, count(*) AS events, min(sequence) AS first, max(sequence) AS last
                           FROM order_events GROUP BY order_id) AS told ON told.order_id = orders.id
                WHERE (told.events, told.first, told.last) IS DISTINCT FROM (orders.sequence::bigint, 1, orders.sequence)",
    },
    Rule {
        sentence: "an order's last event has the order's status",
        query: "SELECT format('order %s: %s, last event %s says %s', orders.id, orders.status, last.type, last.status) AS detail
                FROM orders JOIN order_events AS last ON last.order_id = orders.id AND last.sequence = orders.sequence
                WHERE last.status <> orders.status",
    },
    Rule {
        sentence: "every line, event, reservation and payment belongs to an order",
        query: "SELECT format('%s of order %s', kind, order_id) AS detail
                FROM (SELECT 'line' AS kind, order_id FROM order_lines UNION ALL
                      SELECT 'event', order_id FROM order_events UNION ALL
                      SELECT 'reservation', order_id FROM reservations UNION ALL
                      SELECT 'payment', order_id FROM payments) AS child
                WHERE NOT EXISTS (SELECT FROM orders WHERE orders.id = child.order_id)",
    },
];
