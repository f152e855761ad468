//! The saga engine: where each saga is, what it waits for, and what it did.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &str = r#"
-- One cold row per saga. Every saga that has not ended has exactly one row in saga_ready, saga_timer or saga_call,
-- or is HELD; `oms verify` checks it. No index on status, not even a partial one: the update that ends a saga changes
-- the status, and would have to write every index anew instead of being a heap-only one.
CREATE TABLE saga (
    id          uuid PRIMARY KEY,           -- UUIDv7; the place_order saga has its order's id
    subject_id  uuid NOT NULL,              -- what it works on; viewers of the subject are woken when it moves
    definition  text NOT NULL,              -- name and version are pinned for the saga's life
    version     integer NOT NULL,
    status      text NOT NULL DEFAULT 'RUNNING',
    step        smallint NOT NULL DEFAULT 0,          -- index of the step to run, or to undo
    direction   text NOT NULL DEFAULT 'FORWARD',
    attempt     integer NOT NULL DEFAULT 0,           -- attempts begun of this step, direction and generation
    generation  integer NOT NULL DEFAULT 1,           -- part of the idempotency key; grows only after a definitive refusal
    in_doubt    boolean NOT NULL DEFAULT false,       -- an attempt of this step ended unknown, so it may have taken effect
    epoch       integer NOT NULL DEFAULT 0,           -- attempts begun in all; fences late answers
    state       jsonb NOT NULL,             -- what the steps remember
    failure     jsonb,                      -- {code, message, step}: why it compensates
    step_since  timestamptz NOT NULL DEFAULT now(),   -- when the first attempt of this step and direction was due
    stuck_since timestamptz,                -- set when a person should look; it may keep trying all the same
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    CONSTRAINT saga_status CHECK (status IN ('RUNNING', 'COMPENSATING', 'HELD', 'SUCCEEDED', 'COMPENSATED')),
    CONSTRAINT saga_direction CHECK (direction IN ('FORWARD', 'BACKWARD'))
) WITH (fillfactor = 35);  -- as orders

-- Sagas that a person should look at, among them every held one. The column stays null for all others, so that their
-- updates stay heap-only.
CREATE INDEX saga_stuck ON saga (id) WHERE stuck_since IS NOT NULL;

-- Sagas that can move now. Insert and delete only; claimed in key order, which is the order in which they began.
CREATE TABLE saga_ready (
    saga_id uuid PRIMARY KEY
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- Sagas that wait for a time, kept out of saga_ready so that the claim never looks at them.
CREATE TABLE saga_timer (
    saga_id uuid PRIMARY KEY,
    due_at  timestamptz NOT NULL
);
CREATE INDEX saga_timer_due ON saga_timer (due_at);

-- Open gateway calls: the committed intent. A row is here from before the first byte leaves until its result, or its
-- expiry, is recorded.
CREATE TABLE saga_call (
    saga_id         uuid PRIMARY KEY,
    step            smallint NOT NULL,
    direction       text NOT NULL,
    epoch           integer NOT NULL,       -- whoever records the result must name this epoch
    attempt         integer NOT NULL,       -- counted from 1
    generation      integer NOT NULL,
    worker_id       uuid NOT NULL,          -- who makes the call
    idempotency_key text NOT NULL,          -- the same for each attempt of one (saga, step, direction, generation)
    request         text NOT NULL,          -- the frozen bytes
    started_at      timestamptz NOT NULL DEFAULT now(),
    deadline        timestamptz NOT NULL,   -- when the caller gives up waiting
    lease_expires_at timestamptz NOT NULL   -- when another worker may take the call for lost
);
CREATE INDEX saga_call_lease ON saga_call (lease_expires_at);
CREATE INDEX saga_call_worker ON saga_call (worker_id);

-- What happened, append-only. ATTEMPT: one ended attempt; PLAN: what a compensation is going to undo; EVIDENCE: an
-- answer that came too late to count; OPERATOR: an act of a person.
CREATE TABLE saga_log (
    saga_id         uuid NOT NULL,
    epoch           integer NOT NULL,
    kind            text NOT NULL,
    step            text NOT NULL,          -- name of the step
    direction       text NOT NULL,
    attempt         integer NOT NULL,
    generation      integer NOT NULL,
    outcome         text NOT NULL,          -- SUCCEEDED, REFUSED, UNKNOWN, RETRY; PLANNED for a plan; OPERATOR for an
                                            -- act, unless it says how the attempt ended
    idempotency_key text,                   -- of a gateway call, as is the request
    request         text,
    detail          jsonb,                  -- the answer, the refusal, the reason, the plan
    started_at      timestamptz NOT NULL,
    finished_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT saga_log_pkey PRIMARY KEY (saga_id, epoch, kind),
    CONSTRAINT saga_log_kind CHECK (kind IN ('ATTEMPT', 'PLAN', 'EVIDENCE', 'OPERATOR')),
    CONSTRAINT saga_log_direction CHECK (direction IN ('FORWARD', 'BACKWARD'))
);

-- One row per runner process, kept alive by its heartbeat.
CREATE TABLE worker (
    id           uuid PRIMARY KEY,          -- UUIDv7, made when the process starts
    name         text NOT NULL,             -- host and process id, for people
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);
"#;

const DOWN: &str = "DROP TABLE worker; DROP TABLE saga_log; DROP TABLE saga_call; DROP TABLE saga_timer; DROP TABLE saga_ready; DROP TABLE saga";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(UP).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(DOWN).await.map(drop)
    }
}
