//! A gateway that behaves as its card tokens say, and keeps books of its own.
//!
//! A token reads `tok_BEHAVIOR`, for the authorization, or `tok_capture_BEHAVIOR` or `tok_void_BEHAVIOR` for the later
//! operations of the same payment, or several of them joined by `+`: `tok_flaky+capture_decline+void_slow`. See
//! [`Behavior`] for the list.
//!
//! The books are two tables that nothing else reads but `oms verify` and the tests. Concurrent requests are written in
//! one transaction, since a gateway for whose every answer our own database has to commit would measure the database.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DbBackend, DbErr, FromQueryResult, Statement, TransactionTrait,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::{Answer, PaymentGateway, Request};
use crate::engine::presence::no_answer;
use crate::engine::runner::chain;
use crate::engine::{Failure, Lookup, Outcome, Presence};

/// The most requests of one transaction, and the most that wait for one.
const MAX_BATCH: usize = 500;

/// What a card does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behavior {
    /// `approve`, and any token that is not listed: succeeds.
    Approve,
    /// `decline`: refused as `CARD_DECLINED`.
    Decline,
    /// `insufficient_funds`: refused as `INSUFFICIENT_FUNDS`.
    InsufficientFunds,
    /// `slow`: succeeds after two seconds.
    Slow,
    /// `flaky`: answers with a server error twice, and succeeds at the third attempt.
    Flaky,
    /// `timeout_with_effect`: succeeds, but the first answer never arrives.
    TimeoutWithEffect,
    /// `timeout_without_effect`: the first request is lost, the second succeeds.
    TimeoutWithoutEffect,
    /// `reset_after_send`: succeeds, but the connection breaks before the first answer.
    ResetAfterSend,
    /// `malformed_answer`: succeeds, but the first answer cannot be read.
    MalformedAnswer,
    /// `down`: answers every request with a server error.
    Down,
}

impl Behavior {
    fn parse(token: &str, operation: &str) -> Self {
        let parts =
            token.strip_prefix("tok_").unwrap_or(token).split('+').map(|part| match part.split_once('_') {
                Some(("capture", behavior)) => ("capture", behavior),
                Some(("void", behavior)) => ("void", behavior),
                _ => ("authorize", part),
            });
        let behavior = parts.into_iter().find(|(of, _)| *of == operation).map(|(_, behavior)| behavior);
        match behavior.unwrap_or("approve") {
            "decline" => Self::Decline,
            "insufficient_funds" => Self::InsufficientFunds,
            "slow" => Self::Slow,
            "flaky" => Self::Flaky,
            "timeout_with_effect" => Self::TimeoutWithEffect,
            "timeout_without_effect" => Self::TimeoutWithoutEffect,
            "reset_after_send" => Self::ResetAfterSend,
            "malformed_answer" => Self::MalformedAnswer,
            "down" => Self::Down,
            _ => Self::Approve,
        }
    }
}

/// How long a slow card takes.
const SLOW: Duration = Duration::from_secs(2);

/// The simulated gateway.
#[derive(Debug, Clone)]
pub struct SimulatedGateway {
    db: DatabaseConnection,
    presence: Arc<Presence>,
    requests: mpsc::Sender<Pending>,
    delay: Duration,
}

#[derive(Debug)]
struct Pending {
    idempotency_key: String,
    body: String,
    request: Request,
    answer: oneshot::Sender<Decision>,
}

/// What the gateway decided, and how it lets the caller know.
#[derive(Debug, Clone)]
enum Decision {
    Answer(Outcome),
    AnswerAfter(Duration, Outcome),
    Silence,
}

impl SimulatedGateway {
    /// Starts a gateway with its books in `db`, which takes `delay` for each answer. Nobody tells it that the database is
    /// silent.
    pub fn start(db: DatabaseConnection, delay: Duration) -> Arc<Self> {
        Self::start_with_presence(db, Arc::default(), delay)
    }

    /// Starts one that gives up what waits for a silent database.
    pub fn start_with_presence(
        db: DatabaseConnection,
        presence: Arc<Presence>,
        delay: Duration,
    ) -> Arc<Self> {
        let (requests, queue) = mpsc::channel(MAX_BATCH);
        tokio::spawn(keep_books(db.clone(), presence.clone(), queue));
        Arc::new(Self { db, presence, requests, delay })
    }
}

#[async_trait]
impl PaymentGateway for SimulatedGateway {
    fn name(&self) -> &'static str {
        "simulated"
    }

    async fn send(&self, idempotency_key: &str, body: &str) -> Outcome {
        let Ok(request) = serde_json::from_str::<Request>(body) else {
            return Outcome::Refused(Failure::new(
                "MALFORMED_REQUEST",
                "the gateway cannot read the request",
            ));
        };
        let (answer, answered) = oneshot::channel();
        let pending =
            Pending { idempotency_key: idempotency_key.to_owned(), body: body.to_owned(), request, answer };
        if self.requests.send(pending).await.is_err() {
            return Outcome::Unknown("the gateway is gone".to_owned());
        }
        let Ok(decision) = answered.await else {
            return Outcome::Unknown("the gateway answered with a server error".to_owned());
        };
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        match decision {
            Decision::Answer(outcome) => outcome,
            Decision::AnswerAfter(delay, outcome) => {
                tokio::time::sleep(delay).await;
                outcome
            }
            Decision::Silence => std::future::pending().await,
        }
    }

    async fn look_up(&self, idempotency_key: &str, body: &str) -> Lookup {
        let found = self.presence.unless_silent(find_call(&self.db, idempotency_key)).await;
        match found.unwrap_or_else(|| Err(no_answer())) {
            Ok(Some(call)) if call.request != body => Lookup::Found(key_reused()),
            Ok(Some(CallRow { answer: Some(answer), .. })) => Lookup::Found(read_answer(&answer)),
            // Seen but not decided: nothing has happened, and the next request decides.
            Ok(_) => Lookup::Absent,
            Err(error) => {
                Lookup::Found(Outcome::Unknown(format!("the gateway cannot read its books: {error}")))
            }
        }
    }
}

/// Answers requests, as many in one transaction as have come in meanwhile.
async fn keep_books(db: DatabaseConnection, presence: Arc<Presence>, mut queue: mpsc::Receiver<Pending>) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while queue.recv_many(&mut batch, MAX_BATCH).await > 0 {
        // Two requests under one key must see each other's effect: the second waits for the next transaction.
        while !batch.is_empty() {
            let mut keys = HashSet::new();
            let (now, later): (Vec<Pending>, Vec<Pending>) =
                batch.drain(..).partition(|pending| keys.insert(pending.idempotency_key.clone()));
            batch = later;
            let decided = presence.unless_silent(decide_all(&db, &now)).await;
            match decided.unwrap_or_else(|| Err(no_answer())) {
                Ok(decisions) => {
                    for (pending, decision) in now.into_iter().zip(decisions) {
                        // The caller may have given up waiting.
                        let _ = pending.answer.send(decision);
                    }
                }
                // Dropping the requests is the server error.
                Err(error) => {
                    warn!(error = %chain(&error), "the simulated gateway could not write its books")
                }
            }
        }
    }
}

#[derive(Debug, FromQueryResult)]
struct CallRow {
    idempotency_key: String,
    request: String,
    attempts: i32,
    answer: Option<Value>,
}

#[derive(Debug, Clone, FromQueryResult)]
struct PaymentRow {
    reference: String,
    token: String,
    authorized_minor: i64,
    captured_minor: i64,
    captures: i32,
    voided: bool,
}

fn statement<const N: usize>(text: &str, values: [sea_orm::Value; N]) -> Statement {
    Statement::from_sql_and_values(DbBackend::Postgres, text, values)
}

async fn decide_all(db: &DatabaseConnection, batch: &[Pending]) -> Result<Vec<Decision>, DbErr> {
    let tx = db.begin().await?;
    let calls = count_calls(&tx, batch).await?;
    let mut payments = lock_payments(&tx, batch).await?;
    let (mut decisions, mut answers) = (Vec::with_capacity(batch.len()), Vec::new());
    for pending in batch {
        let (Some(call), Some(payment)) =
            (calls.get(&pending.idempotency_key), payments.get_mut(pending.request.reference()))
        else {
            return Err(DbErr::RecordNotFound("a row that was just written".to_owned()));
        };
        let (decision, answer) = decide(pending, call, payment);
        decisions.push(decision);
        answers.extend(answer.map(|answer| (pending.idempotency_key.clone(), answer.to_string())));
    }
    store(&tx, payments.into_values().collect(), answers).await?;
    tx.commit().await?;
    Ok(decisions)
}

/// Decides one request, and what to answer to each repetition of it.
fn decide(pending: &Pending, call: &CallRow, payment: &mut PaymentRow) -> (Decision, Option<Value>) {
    if call.request != pending.body {
        return (Decision::Answer(key_reused()), None);
    }
    if let Some(answer) = &call.answer {
        return (Decision::Answer(read_answer(answer)), None);
    }
    let (operation, token) = match &pending.request {
        Request::Authorize { token, .. } => {
            payment.token.clone_from(token);
            ("authorize", token.clone())
        }
        Request::Capture { .. } => ("capture", payment.token.clone()),
        Request::Void { .. } => ("void", payment.token.clone()),
    };
    let behavior = Behavior::parse(&token, operation);
    let unknown = |reason: &str| Decision::Answer(Outcome::Unknown(reason.to_owned()));
    let server_error = unknown("the gateway answered with a server error");
    match behavior {
        Behavior::Down => return (server_error, None),
        Behavior::Flaky if call.attempts <= 2 => return (server_error, None),
        Behavior::TimeoutWithoutEffect if call.attempts <= 1 => return (Decision::Silence, None),
        _ => {}
    }
    let outcome = take_effect(&pending.request, behavior, payment);
    let answer = match &outcome {
        Outcome::Refused(failure) => json!({ "refused": failure }),
        Outcome::Succeeded(value) => json!({ "succeeded": value }),
        Outcome::Unknown(_) => return (Decision::Answer(outcome), None),
    };
    let decision = match behavior {
        Behavior::TimeoutWithEffect => Decision::Silence,
        Behavior::ResetAfterSend => unknown("the connection was reset before the gateway answered"),
        Behavior::MalformedAnswer => unknown("the gateway's answer cannot be read"),
        Behavior::Slow => Decision::AnswerAfter(SLOW, outcome),
        _ => Decision::Answer(outcome),
    };
    (decision, Some(answer))
}

/// Moves the money, or refuses to.
fn take_effect(request: &Request, behavior: Behavior, payment: &mut PaymentRow) -> Outcome {
    match behavior {
        Behavior::Decline => return refused("CARD_DECLINED", "the card was declined"),
        Behavior::InsufficientFunds => {
            return refused("INSUFFICIENT_FUNDS", "the card has insufficient funds");
        }
        _ => {}
    }
    match request {
        Request::Authorize { .. } if payment.voided => {
            refused("PAYMENT_VOIDED", "the payment was made void before it was authorized")
        }
        Request::Authorize { .. } if payment.authorized_minor > 0 => {
            Outcome::Unknown("the payment is authorized already, under another key".to_owned())
        }
        Request::Authorize { amount_minor, .. } => {
            payment.authorized_minor = *amount_minor;
            succeeded(format!("auth_{}", payment.reference))
        }
        Request::Capture { .. } if payment.voided => refused("PAYMENT_VOIDED", "the payment was made void"),
        Request::Capture { amount_minor, .. }
            if payment.captured_minor + amount_minor > payment.authorized_minor =>
        {
            refused("AMOUNT_TOO_LARGE", "the amount is more than was authorized and not captured yet")
        }
        Request::Capture { amount_minor, .. } => {
            payment.captured_minor += amount_minor;
            payment.captures += 1;
            succeeded(format!("capture_{}", payment.reference))
        }
        Request::Void { .. } if payment.captured_minor > 0 => {
            refused("ALREADY_CAPTURED", "the payment was captured; it can only be refunded")
        }
        Request::Void { .. } => {
            payment.voided = true;
            succeeded(format!("void_{}", payment.reference))
        }
    }
}

/// The other request may have taken effect, so this is no refusal.
fn key_reused() -> Outcome {
    Outcome::Unknown("the idempotency key was used with another request".to_owned())
}

fn refused(code: &str, message: &str) -> Outcome {
    Outcome::Refused(Failure::new(code, message))
}

fn succeeded(id: String) -> Outcome {
    Outcome::Succeeded(json!(Answer { id }))
}

fn read_answer(answer: &Value) -> Outcome {
    if let Some(value) = answer.get("succeeded") {
        return Outcome::Succeeded(value.clone());
    }
    match serde_json::from_value(answer["refused"].clone()) {
        Ok(failure) => Outcome::Refused(failure),
        Err(_) => Outcome::Unknown("the gateway cannot read its own answer".to_owned()),
    }
}

async fn count_calls(
    tx: &impl ConnectionTrait,
    batch: &[Pending],
) -> Result<HashMap<String, CallRow>, DbErr> {
    let operation = |request: &Request| match request {
        Request::Authorize { .. } => "authorize",
        Request::Capture { .. } => "capture",
        Request::Void { .. } => "void",
    };
    let texts = |text: &dyn Fn(&Pending) -> String| -> Vec<String> { batch.iter().map(text).collect() };
    let rows = CallRow::find_by_statement(statement(
        "INSERT INTO simulated_gateway_calls AS call (idempotency_key, operation, reference, request, attempts)
         SELECT key, operation, reference, request, 1
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS input (key, operation, reference, request)
         ORDER BY key
         ON CONFLICT (idempotency_key) DO UPDATE SET attempts = call.attempts + 1
         RETURNING idempotency_key, request, attempts, answer",
        [
            texts(&|pending| pending.idempotency_key.clone()).into(),
            texts(&|pending| operation(&pending.request).to_owned()).into(),
            texts(&|pending| pending.request.reference().to_owned()).into(),
            texts(&|pending| pending.body.clone()).into(),
        ],
    ))
    .all(tx)
    .await?;
    Ok(rows.into_iter().map(|row| (row.idempotency_key.clone(), row)).collect())
}

async fn find_call(db: &impl ConnectionTrait, idempotency_key: &str) -> Result<Option<CallRow>, DbErr> {
    CallRow::find_by_statement(statement(
        "SELECT idempotency_key, request, attempts, answer FROM simulated_gateway_calls WHERE idempotency_key = $1",
        [idempotency_key.into()],
    ))
    .one(db)
    .await
}

async fn lock_payments(
    tx: &impl ConnectionTrait,
    batch: &[Pending],
) -> Result<HashMap<String, PaymentRow>, DbErr> {
    let references: HashSet<&str> = batch.iter().map(|pending| pending.request.reference()).collect();
    let references: Vec<String> = references.into_iter().map(str::to_owned).collect();
    // Updating a row to what it is takes its lock, whether it was there or not.
    let rows = PaymentRow::find_by_statement(statement(
        "INSERT INTO simulated_gateway_payments AS payment (reference)
         SELECT reference FROM unnest($1::text[]) AS input (reference) ORDER BY reference
         ON CONFLICT (reference) DO UPDATE SET reference = excluded.reference
         RETURNING reference, token, authorized_minor, captured_minor, captures, voided",
        [references.into()],
    ))
    .all(tx)
    .await?;
    Ok(rows.into_iter().map(|row| (row.reference.clone(), row)).collect())
}

async fn store(
    tx: &impl ConnectionTrait,
    payments: Vec<PaymentRow>,
    answers: Vec<(String, String)>,
) -> Result<(), DbErr> {
    tx.execute_raw(statement(
        "UPDATE simulated_gateway_payments AS payment
         SET token = input.token, authorized_minor = input.authorized_minor, captured_minor = input.captured_minor,
             captures = input.captures, voided = input.voided
         FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::integer[], $6::boolean[])
             AS input (reference, token, authorized_minor, captured_minor, captures, voided)
         WHERE payment.reference = input.reference",
        [
            payments.iter().map(|payment| payment.reference.clone()).collect::<Vec<_>>().into(),
            payments.iter().map(|payment| payment.token.clone()).collect::<Vec<_>>().into(),
            payments.iter().map(|payment| payment.authorized_minor).collect::<Vec<_>>().into(),
            payments.iter().map(|payment| payment.captured_minor).collect::<Vec<_>>().into(),
            payments.iter().map(|payment| payment.captures).collect::<Vec<_>>().into(),
            payments.iter().map(|payment| payment.voided).collect::<Vec<_>>().into(),
        ],
    ))
    .await?;
    let (keys, answers): (Vec<String>, Vec<String>) = answers.into_iter().unzip();
    tx.execute_raw(statement(
        "UPDATE simulated_gateway_calls AS call SET answer = input.answer::jsonb
         FROM unnest($1::text[], $2::text[]) AS input (key, answer) WHERE call.idempotency_key = input.key",
        [keys.into(), answers.into()],
    ))
    .await
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_the_operation_it_is_about() {
        assert_eq!(Behavior::parse("tok_decline", "authorize"), Behavior::Decline);
        assert_eq!(Behavior::parse("tok_decline", "capture"), Behavior::Approve);
        assert_eq!(Behavior::parse("tok_capture_down", "capture"), Behavior::Down);
        assert_eq!(Behavior::parse("tok_capture_down", "authorize"), Behavior::Approve);
        assert_eq!(Behavior::parse("tok_timeout_with_effect", "authorize"), Behavior::TimeoutWithEffect);
        assert_eq!(Behavior::parse("4242", "authorize"), Behavior::Approve);
        let joined = "tok_flaky+capture_decline+void_reset_after_send";
        assert_eq!(Behavior::parse(joined, "authorize"), Behavior::Flaky);
        assert_eq!(Behavior::parse(joined, "capture"), Behavior::Decline);
        assert_eq!(Behavior::parse(joined, "void"), Behavior::ResetAfterSend);
        assert_eq!(Behavior::parse("tok_capture_decline+void_down", "authorize"), Behavior::Approve);
    }

    fn payment() -> PaymentRow {
        PaymentRow {
            reference: "r".to_owned(),
            token: String::new(),
            authorized_minor: 0,
            captured_minor: 0,
            captures: 0,
            voided: false,
        }
    }

    fn authorize() -> Request {
        Request::Authorize {
            reference: "r".to_owned(),
            amount_minor: 100,
            currency: "USD".to_owned(),
            token: "tok_approve".to_owned(),
        }
    }

    #[test]
    fn what_is_there_under_another_key_or_request_is_no_refusal() {
        let mut payment = PaymentRow { authorized_minor: 90, ..payment() };
        assert!(matches!(take_effect(&authorize(), Behavior::Approve, &mut payment), Outcome::Unknown(_)));
        let pending = Pending {
            idempotency_key: "k".to_owned(),
            body: "one".to_owned(),
            request: authorize(),
            answer: oneshot::channel().0,
        };
        let answer = Some(json!({ "succeeded": { "id": "auth_r" } }));
        let call =
            CallRow { idempotency_key: "k".to_owned(), request: "two".to_owned(), attempts: 2, answer };
        let decided = decide(&pending, &call, &mut payment);
        assert!(matches!(decided, (Decision::Answer(Outcome::Unknown(_)), None)), "{decided:?}");
        assert_eq!(payment.authorized_minor, 90);
    }

    #[test]
    fn a_void_shuts_out_an_authorization_that_is_still_on_its_way() {
        let (mut payment, authorize) = (payment(), authorize());
        let void = Request::Void { reference: "r".to_owned() };
        assert!(matches!(take_effect(&void, Behavior::Approve, &mut payment), Outcome::Succeeded(_)));
        assert!(matches!(take_effect(&authorize, Behavior::Approve, &mut payment), Outcome::Refused(_)));
        assert_eq!(payment.authorized_minor, 0);
    }
}
