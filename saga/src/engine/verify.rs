//! The engine's own rules of bookkeeping, as queries for `oms verify`.

/// What is counted: a name, and a table with an optional condition.
pub const COUNTS: &[(&str, &str)] = &[
    ("sagas", "saga"),
    ("sagas on their way", "saga WHERE status IN ('RUNNING', 'COMPENSATING')"),
    ("sagas held for a person", "saga WHERE status = 'HELD'"),
    ("sagas stuck but trying", "saga WHERE stuck_since IS NOT NULL AND status <> 'HELD'"),
    ("open calls", "saga_call"),
    ("timers", "saga_timer"),
    ("attempts in the history", "saga_log WHERE kind = 'ATTEMPT'"),
];

/// What must hold: a sentence, and a query that returns a text column `detail` for each row that breaks it.
pub const RULES: &[(&str, &str)] = &[
    (
        "a saga on its way waits for exactly one thing, and one that is over or held for nothing",
        "SELECT format('saga %s (%s): ready %s, timers %s, calls %s', saga.id, saga.status,
                       (ready.saga_id IS NOT NULL)::int, (timer.saga_id IS NOT NULL)::int,
                       (call.saga_id IS NOT NULL)::int) AS detail
         FROM saga
         LEFT JOIN saga_ready AS ready ON ready.saga_id = saga.id
         LEFT JOIN saga_timer AS timer ON timer.saga_id = saga.id
         LEFT JOIN saga_call AS call ON call.saga_id = saga.id
         WHERE (ready.saga_id IS NOT NULL)::int + (timer.saga_id IS NOT NULL)::int + (call.saga_id IS NOT NULL)::int
               <> (saga.status IN ('RUNNING', 'COMPENSATING'))::int",
    ),
    (
        "every timer, ready row, call and log entry belongs to a saga",
        "SELECT format('%s of saga %s', kind, saga_id) AS detail
         FROM (SELECT 'ready row' AS kind, saga_id FROM saga_ready UNION ALL
               SELECT 'timer', saga_id FROM saga_timer UNION ALL
               SELECT 'call', saga_id FROM saga_call UNION ALL
               SELECT 'log entry', saga_id FROM saga_log) AS child
         WHERE NOT EXISTS (SELECT FROM saga WHERE saga.id = child.saga_id)",
    ),
    (
        "each attempt of one key sends the same bytes",
        "SELECT format('saga %s: %s requests under the key %s', saga_id, count(DISTINCT request), idempotency_key) AS detail
         FROM saga_log WHERE idempotency_key IS NOT NULL
         GROUP BY saga_id, idempotency_key HAVING count(DISTINCT request) > 1",
    ),
    (
        "a compensated saga says why",
        "SELECT format('saga %s', id) AS detail FROM saga
         WHERE status IN ('COMPENSATING', 'COMPENSATED') AND failure IS NULL",
    ),
    (
        "a saga that is undone has written down a plan before its first undo",
        "SELECT format('saga %s (%s): planned at %s, first undo at %s', saga.id, saga.status, coalesce(told.planned::text, 'no time'),
                       coalesce(told.undone::text, 'no time')) AS detail
         FROM saga
         LEFT JOIN (SELECT saga_id, min(epoch) FILTER (WHERE kind = 'PLAN') AS planned,
                           min(epoch) FILTER (WHERE kind = 'ATTEMPT') AS undone
                    FROM saga_log WHERE kind = 'PLAN' OR kind = 'ATTEMPT' AND direction = 'BACKWARD'
                    GROUP BY saga_id) AS told ON told.saga_id = saga.id
         WHERE (saga.status IN ('COMPENSATING', 'COMPENSATED') AND told.planned IS NULL)
            OR (told.undone IS NOT NULL AND (told.planned IS NULL OR told.planned >= told.undone))",
    ),
];
