//! The failure matrix: each step, in each direction, at each crash point, with each fault.
//!
//! The cells are generated from a saga's definition. A cell puts a few subjects on their way, brings its fault about at
//! its place, lets the system go on, and waits until every saga is over; then the books must balance and each subject
//! must stand as it should.
//!
//! A fault of a process needs one: a runner stops itself at the place (SIGSTOP, at the very instruction), and the test
//! kills it, cuts its connections, restarts Postgres, or loses the answer to the commit it is about to make. Meanwhile
//! the calls of that step go wrong in every way that a call can: one subject meets no fault, and each other one a fault
//! of its own. A fault of a call needs none: all such cells run at once, in one runner.

use std::collections::BTreeMap;
use std::fmt::Write;

use futures_util::future::join_all;
use oms_tests::TestDatabase;
use oms_tests::disturb::{Disturbance, Fault};
use oms_tests::lossy_proxy::LossyProxy;
use oms_tests::own_postgres::{Crash, OwnPostgres};
use oms_tests::runner_under_test::{APPLICATION_NAME, GATEWAY_URL, RunnerUnderTest};
use oms_tests::subject::{SUBJECTS, Subject};
use rustix::process::Signal;
use saga::engine::definition::CONCLUSION_NAME;
use saga::engine::{Action, Definition, Direction, StepKind};
use sea_orm::TransactionTrait;

use crate::OMS;
use crate::bench::{Bench, End};

/// Subjects that are on their way in a cell of a process fault whose step makes no call.
const SUBJECTS_PER_LOCAL_CELL: usize = 4;

/// Lanes of cells that run beside each other. A cell waits more than it works: a call whose answer makes no sense is made
/// again when its lease is over.
const LANES: usize = 4;

/// How often a call is refused that is refused for good: also when it is repeated, since the refusal has been lost.
const EVERY_TIME: u32 = 1_000;

/// Subjects of a cell of a call fault.
const SUBJECTS_PER_CALL_FAULT: usize = 3;

/// Where a fault strikes, relative to the write or the call of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    BeforeIntentCommit,
    BeforeSend,
    AfterSend,
    AfterAnswer,
    BeforeResultCommit,
    AfterResultCommit,
}

impl Point {
    /// What a call passes.
    const OF_CALL: [Self; 6] = [
        Self::BeforeIntentCommit,
        Self::BeforeSend,
        Self::AfterSend,
        Self::AfterAnswer,
        Self::BeforeResultCommit,
        Self::AfterResultCommit,
    ];

    /// What a step in our own database passes.
    const OF_LOCAL: [Self; 2] = [Self::BeforeResultCommit, Self::AfterResultCommit];

    fn name(self) -> &'static str {
        match self {
            Self::BeforeIntentCommit => "before_intent_commit",
            Self::BeforeSend => "before_send",
            Self::AfterSend => "after_send",
            Self::AfterAnswer => "after_answer",
            Self::BeforeResultCommit => "before_result_commit",
            Self::AfterResultCommit => "after_result_commit",
        }
    }

    fn is_before_commit(self) -> bool {
        matches!(self, Self::BeforeIntentCommit | Self::BeforeResultCommit)
    }
}

/// What happens to the process or to its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ProcessFault {
    Killed,
    ConnectionsCut,
    CommitAnswerLost,
    PostgresRestarted,
}

impl ProcessFault {
    fn name(self) -> &'static str {
        match self {
            Self::Killed => "process killed",
            Self::ConnectionsCut => "connections cut",
            Self::CommitAnswerLost => "commit's answer lost",
            Self::PostgresRestarted => "Postgres restarted",
        }
    }
}

/// A step in one direction.
#[derive(Debug, Clone, Copy)]
struct Place {
    step: &'static str,
    direction: Direction,
    is_call: bool,
}

impl Place {
    fn way(self) -> String {
        self.direction.as_str().to_lowercase()
    }
}

/// Every step, in every direction in which there is something to do.
fn places(definition: &Definition) -> Vec<Place> {
    let mut places = Vec::new();
    let mut add = |step, direction, action: &Action| {
        places.push(Place { step, direction, is_call: matches!(action, Action::External(_)) });
    };
    for step in &definition.steps {
        add(step.name, Direction::Forward, &step.forward);
        if let Some(backward) = &step.backward {
            add(step.name, Direction::Backward, backward);
        }
    }
    add(CONCLUSION_NAME, Direction::Backward, &definition.conclusion);
    places
}

/// What sends a saga past a place, and how it then ends.
fn way_to(definition: &Definition, place: Place) -> (End, Vec<Disturbance>) {
    if place.direction == Direction::Forward {
        return (End::Succeeded, Vec::new());
    }
    let pivot =
        definition.steps.iter().find(|step| step.kind == StepKind::Pivot).expect("a saga has a pivot");
    (End::Unwound, vec![Disturbance::once(pivot.name, Direction::Forward, Fault::Refusal)])
}

/// Whether a call that goes wrong like this turns its saga round.
fn is_fatal(definition: &Definition, place: Place, fault: Fault) -> bool {
    fault == Fault::Refusal
        && place.direction == Direction::Forward
        && definition.steps.iter().any(|step| step.name == place.step && step.kind != StepKind::Retriable)
}

/// The subjects of a cell of a process fault: how each ends, and what goes wrong for it besides.
fn subjects_of_cell(definition: &Definition, place: Place) -> Vec<(End, Vec<Disturbance>)> {
    let undisturbed = way_to(definition, place);
    if !place.is_call {
        return vec![undisturbed; SUBJECTS_PER_LOCAL_CELL];
    }
    let mut subjects = vec![undisturbed];
    for fault in Fault::OF_CALLS {
        let (end, mut faults) = way_to(definition, place);
        let (end, times) =
            if is_fatal(definition, place, fault) { (End::Unwound, EVERY_TIME) } else { (end, 1) };
        faults.push(Disturbance::once(place.step, place.direction, fault).times(times));
        subjects.push((end, faults));
    }
    subjects
}

/// What came of the cells: runs and violations, by step, direction, point and fault.
#[derive(Default)]
struct Table(BTreeMap<[String; 4], (usize, Vec<String>)>);

impl Table {
    fn add(&mut self, place: Place, point: &str, fault: &str, runs: usize, violations: Vec<String>) {
        let key = [place.step.to_owned(), place.way(), point.to_owned(), fault.to_owned()];
        let cell = self.0.entry(key).or_default();
        cell.0 += runs;
        cell.1.extend(violations);
    }

    fn merge(&mut self, other: Self) {
        for (key, (runs, violations)) in other.0 {
            let cell = self.0.entry(key).or_default();
            cell.0 += runs;
            cell.1.extend(violations);
        }
    }

    /// Writes the table beside the build's other results, and fails if a cell has a violation.
    fn close(self, name: &str) {
        let mut text =
            "| step | direction | point | fault | runs | violations |\n|---|---|---|---|---|---|\n"
                .to_owned();
        let mut wrong = String::new();
        for ([step, direction, point, fault], (runs, violations)) in &self.0 {
            let count = violations.len();
            writeln!(text, "| {step} | {direction} | {point} | {fault} | {runs} | {count} |")
                .expect("a string grows");
            for violation in violations {
                writeln!(wrong, "{step} {direction}, {point}, {fault}: {violation}").expect("a string grows");
            }
        }
        let path =
            std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("failure-matrix-{name}.md"));
        std::fs::write(&path, &text).expect("the build's folder can be written");
        assert!(wrong.is_empty(), "{wrong}\n{} cells, see {}", self.0.len(), path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_call_answers() {
    for mut bench in Bench::for_every_saga().await {
        let definition = bench.definition();
        let mut cells = Vec::new();
        for place in places(&definition).into_iter().filter(|place| place.is_call) {
            for fault in Fault::OF_CALLS {
                let (end, mut faults) = way_to(&definition, place);
                faults.push(Disturbance::once(place.step, place.direction, fault));
                let end = if is_fatal(&definition, place, fault) { End::Unwound } else { end };
                for _ in 0..SUBJECTS_PER_CALL_FAULT {
                    cells.push((place, fault, bench.begin(end, &faults).await));
                }
            }
        }
        let runner = bench.start_runner(|saga| saga).await;
        bench.settled().await;
        runner.stop().await;
        let violations = bench.violations().await;
        let mut table = Table::default();
        for (place, fault, id) in cells {
            let own = violations.iter().filter(|violation| violation.contains(&id.to_string())).cloned();
            table.add(place, "answer", fault.name(), 1, own.collect());
        }
        table.close(&format!("{}-calls", bench.name));
        bench.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_process_is_killed_going_forward() {
    strike(ProcessFault::Killed, Direction::Forward).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_process_is_killed_going_back() {
    strike(ProcessFault::Killed, Direction::Backward).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_connections_are_cut() {
    strike(ProcessFault::ConnectionsCut, Direction::Forward).await;
    strike(ProcessFault::ConnectionsCut, Direction::Backward).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_answer_to_a_commit_is_lost() {
    strike(ProcessFault::CommitAnswerLost, Direction::Forward).await;
    strike(ProcessFault::CommitAnswerLost, Direction::Backward).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_postgres_is_restarted() {
    strike(ProcessFault::PostgresRestarted, Direction::Forward).await;
    strike(ProcessFault::PostgresRestarted, Direction::Backward).await;
}

/// Runs the cells of one fault in one direction, for every saga.
async fn strike(fault: ProcessFault, direction: Direction) {
    for (name, subject) in SUBJECTS {
        let mut table = Table::default();
        for lane in join_all((0..LANES).map(|lane| run_lane(lane, fault, direction, name, subject))).await {
            table.merge(lane);
        }
        let way = direction.as_str().to_lowercase();
        table.close(&format!("{name}-{}-{way}", fault.name().replace([' ', '\''], "-")));
    }
}

/// Every place of a direction, at every point where this fault can strike.
fn cells(definition: &Definition, fault: ProcessFault, direction: Direction) -> Vec<(Place, Point)> {
    let mut cells = Vec::new();
    for place in places(definition).into_iter().filter(|place| place.direction == direction) {
        let points = if place.is_call { &Point::OF_CALL[..] } else { &Point::OF_LOCAL[..] };
        let strikes = |point: Point| fault != ProcessFault::CommitAnswerLost || point.is_before_commit();
        cells.extend(points.iter().copied().filter(|&point| strikes(point)).map(|point| (place, point)));
    }
    cells
}

/// Runs the cells of one lane, in a database of their own.
async fn run_lane(
    lane: usize,
    fault: ProcessFault,
    direction: Direction,
    name: &'static str,
    subject: &'static dyn Subject,
) -> Table {
    let postgres = match fault {
        ProcessFault::PostgresRestarted => Some(OwnPostgres::start().await),
        _ => None,
    };
    let db = match &postgres {
        Some(postgres) => TestDatabase::create_in(postgres).await,
        None => TestDatabase::create().await,
    };
    let proxy = (fault == ProcessFault::CommitAnswerLost).then(|| LossyProxy::before(&db));
    let bench = Bench::new(name, subject, db);
    let definition = bench.definition();
    let cells = cells(&definition, fault, direction).into_iter().skip(lane).step_by(LANES);
    let mut lane = Lane { fault, bench, postgres, proxy, runner: None };
    let table = lane.run(&definition, cells).await;
    if let Some(runner) = lane.runner {
        runner.kill().await;
    }
    // The table has what there is to say of it.
    lane.bench.db.discard().await;
    if let Some(postgres) = lane.postgres {
        postgres.stop().await;
    }
    table
}

/// Cells that run one after another, with one runner at a time.
struct Lane {
    fault: ProcessFault,
    bench: Bench,
    postgres: Option<OwnPostgres>,
    proxy: Option<LossyProxy>,
    runner: Option<RunnerUnderTest>,
}

impl Lane {
    async fn run(&mut self, definition: &Definition, cells: impl Iterator<Item = (Place, Point)>) -> Table {
        let mut table = Table::default();
        for (place, point) in cells {
            let subjects = subjects_of_cell(definition, place);
            let violations = self.run_cell(place, point, &subjects).await;
            table.add(place, point.name(), self.fault.name(), subjects.len(), violations);
        }
        table
    }

    async fn run_cell(
        &mut self,
        place: Place,
        point: Point,
        subjects: &[(End, Vec<Disturbance>)],
    ) -> Vec<String> {
        let where_to = format!("{}/{}/{}", point.name(), place.step, place.way());
        let mut runner = match self.runner.take() {
            Some(runner) => runner,
            None => self.start_runner().await,
        };
        // The runner is told whose faults they are before it can see anybody.
        let tx = self.bench.db.connection().begin().await.expect("a transaction");
        let mut faults = Vec::new();
        for (end, own) in subjects {
            faults.extend(self.bench.begin_in(&tx, *end, own).await.1);
        }
        runner.arm(&where_to, &faults).await;
        tx.commit().await.expect("the subjects begin");
        runner.stopped().await;
        let runner = self.bring_about(runner, &faults).await;
        self.bench.settled().await;
        self.runner = Some(runner);
        let mut violations = self.bench.violations().await;
        if self.proxy.as_ref().is_some_and(|proxy| !proxy.has_lost()) {
            violations.push("no commit's answer was lost".to_owned());
        }
        // Each cell answers for its own subjects.
        self.bench.subjects.clear();
        violations
    }

    /// Brings the fault about while the runner stands still, and returns a runner that goes on.
    async fn bring_about(&self, mut runner: RunnerUnderTest, faults: &[Disturbance]) -> RunnerUnderTest {
        match self.fault {
            ProcessFault::Killed => {
                runner.kill().await;
                runner = self.start_runner().await;
                runner.arm("", faults).await;
                return runner;
            }
            ProcessFault::ConnectionsCut => {
                let cut = format!(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = current_database() AND application_name = '{APPLICATION_NAME}'"
                );
                self.bench.db.execute(&cut).await;
            }
            ProcessFault::CommitAnswerLost => {
                self.proxy.as_ref().expect("this fault needs one").lose_next_commit()
            }
            ProcessFault::PostgresRestarted => {
                self.postgres.as_ref().expect("this fault needs one").restart(Crash::Immediate).await;
            }
        }
        runner.signal(Signal::CONT);
        runner
    }

    async fn start_runner(&self) -> RunnerUnderTest {
        let url = self.proxy.as_ref().map_or_else(|| self.bench.db.url(), |proxy| proxy.url().to_owned());
        // The commits of the other system's books are not the runner's: none of them is to be the one that is lost.
        let gateway = self.bench.db.url();
        RunnerUnderTest::start(OMS, &url, self.bench.name, &[(GATEWAY_URL, &gateway)]).await
    }
}
