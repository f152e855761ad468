//! Checks what lies between the books: the engine's rows, and the simulated gateway's ledger against our payments.

use domain::books::{Report, Rule, audit};
use sea_orm::{DatabaseConnection, DbErr};

use crate::engine::verify::{COUNTS, RULES};

/// Checks the engine's rows and the simulated gateway's ledger.
///
/// # Errors
/// Any error of the database.
pub async fn verify(db: &DatabaseConnection) -> Result<Report, DbErr> {
    let engine_rules = RULES.iter().map(|&(sentence, query)| Rule { sentence, query });
    let rules: Vec<Rule> = engine_rules.chain(GATEWAY_RULES.iter().copied()).collect();
    audit(db, COUNTS, &rules).await
}

/// Joins on text, since the gateway knows our orders only by the reference we gave it.
const GATEWAY_RULES: &[Rule] = &[
    Rule {
        sentence: "an order and its saga end together",
        query: "SELECT format('order %s is %s, its saga %s', orders.id, orders.status, coalesce(saga.status, 'missing')) AS detail
                FROM orders LEFT JOIN saga ON saga.id = orders.id
                WHERE (orders.status = 'PENDING') <> (saga.status IN ('RUNNING', 'COMPENSATING', 'HELD'))
                   OR saga.id IS NULL",
    },
    Rule {
        sentence: "the simulated gateway took money at most once for each payment",
        query: "SELECT format('payment %s: %s captures', reference, captures) AS detail
                FROM simulated_gateway_payments WHERE captures > 1",
    },
    Rule {
        sentence: "the simulated gateway's captures of a settled order are those of our books",
        // Both sides are kept whole: money that only one of them knows of is what to look for.
        query: "SELECT format('order %s (%s): gateway captured %s, books %s',
                              coalesce(gateway.reference, payments.order_id::text), coalesce(orders.status, 'missing'),
                              coalesce(gateway.captured_minor, 0), coalesce(payments.captured_minor, 0)) AS detail
                FROM simulated_gateway_payments AS gateway
                FULL JOIN (SELECT order_id, captured_minor FROM payments WHERE gateway = 'simulated') AS payments
                    ON payments.order_id = gateway.reference::uuid
                LEFT JOIN orders ON orders.id = coalesce(payments.order_id, gateway.reference::uuid)
                WHERE orders.status IS DISTINCT FROM 'PENDING'
                  AND coalesce(gateway.captured_minor, 0) <> coalesce(payments.captured_minor, 0)",
    },
    Rule {
        sentence: "the simulated gateway holds no open authorization for an order that failed or does not exist",
        query: "SELECT format('order %s: authorized %s, not void', gateway.reference, gateway.authorized_minor) AS detail
                FROM simulated_gateway_payments AS gateway
                LEFT JOIN orders ON orders.id = gateway.reference::uuid
                WHERE (orders.id IS NULL OR orders.status IN ('FAILED', 'CANCELED'))
                  AND gateway.authorized_minor > 0 AND gateway.captured_minor = 0 AND NOT gateway.voided",
    },
];
