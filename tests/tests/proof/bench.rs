//! One saga under proof: its database, its subjects, and what must be true of them in the end.

use std::sync::Arc;
use std::time::Duration;

use oms_tests::disturb::{Disturbance, Script, disturb};
use oms_tests::runner_under_test::quick_settings;
use oms_tests::subject::{SUBJECTS, Subject};
use oms_tests::{TestDatabase, eventually, within};
use saga::engine::{Definition, Definitions, Runner, Wakeups};
use sea_orm::{DatabaseConnection, DatabaseTransaction, TransactionTrait};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How a subject should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Every step done.
    Succeeded,
    /// Nothing left.
    Unwound,
}

/// A saga, a database, and the subjects begun in it.
pub(crate) struct Bench {
    /// The saga's name.
    pub(crate) name: &'static str,
    pub(crate) subject: &'static dyn Subject,
    pub(crate) db: TestDatabase,
    pub(crate) subjects: Vec<(Uuid, End, String)>,
    /// Subjects begun so far, those of earlier cells included.
    begun: usize,
    script: Arc<Script>,
}

/// A runner in this process.
pub(crate) struct RunnerHere {
    runner: Runner,
    stop: CancellationToken,
    db: DatabaseConnection,
}

impl RunnerHere {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        within("the runner has stopped", self.runner.stopped()).await;
        within("its pool has closed", self.db.close()).await.expect("it closes");
    }
}

impl Bench {
    /// Makes one for each saga there is.
    pub(crate) async fn for_every_saga() -> Vec<Self> {
        let mut benches = Vec::new();
        for (name, subject) in SUBJECTS {
            benches.push(Self::new(name, subject, TestDatabase::create().await));
        }
        benches
    }

    pub(crate) fn new(name: &'static str, subject: &'static dyn Subject, db: TestDatabase) -> Self {
        Self { name, subject, db, subjects: Vec::new(), begun: 0, script: Script::new(Vec::new()) }
    }

    /// The saga as it is declared.
    pub(crate) fn definition(&self) -> Definition {
        self.subject.definition(self.db.connection())
    }

    /// Begins a subject that should end like this in spite of these faults. Begin before a runner of this process does.
    pub(crate) async fn begin(&mut self, end: End, faults: &[Disturbance]) -> Uuid {
        let tx = self.db.connection().begin().await.expect("a transaction");
        let (id, _) = self.begin_in(&tx, end, faults).await;
        tx.commit().await.expect("the subject begins");
        id
    }

    /// Begins a subject that is on its way once `tx` is committed, and returns its faults with it. They are its own.
    pub(crate) async fn begin_in(
        &mut self,
        tx: &DatabaseTransaction,
        end: End,
        faults: &[Disturbance],
    ) -> (Uuid, Vec<Disturbance>) {
        self.begun += 1;
        let key = format!("{}-{}", self.name, self.begun);
        let id = self.subject.begin(tx, &key).await;
        let faults: Vec<Disturbance> = faults.iter().cloned().map(|fault| fault.of(id)).collect();
        let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
        faults.iter().cloned().for_each(|fault| self.script.add(fault));
        self.subjects.push((id, end, told.join(",")));
        (id, faults)
    }

    /// Lets this go wrong for every subject, those that are yet to begin included.
    pub(crate) fn disturb_everybody(&self, fault: Disturbance) {
        self.script.add(fault);
    }

    /// Lets nothing go wrong any more.
    pub(crate) fn forgive(&self) {
        self.script.replace(Vec::new());
    }

    /// Starts a runner in this process; `change` wraps the saga once more.
    pub(crate) async fn start_runner(&self, change: impl FnOnce(Definition) -> Definition) -> RunnerHere {
        let db = self.db.connect_runner().await;
        let definition = change(disturb(self.subject.definition(db.clone()), &self.script));
        let definitions = Definitions::try_new([definition]).expect("the saga is well defined");
        let stop = CancellationToken::new();
        let runner = Runner::start(db.clone(), definitions, Wakeups::new(), quick_settings(), stop.clone());
        RunnerHere { runner, stop, db }
    }

    /// Waits until no saga is on its way.
    pub(crate) async fn settled(&self) {
        let open = "SELECT count(*) FROM saga WHERE finished_at IS NULL";
        let look = async || (self.db.number(open).await == 0).then_some(());
        let settled = std::panic::AssertUnwindSafe(eventually("every saga is over", look));
        if futures_util::FutureExt::catch_unwind(settled).await.is_err() {
            panic!("not settled:\n{}", self.describe_open().await);
        }
    }

    /// Waits until no saga is on its way, for no longer than this.
    pub(crate) async fn settle_within(&self, longest: Duration) -> bool {
        let settled = async {
            while self.db.number("SELECT count(*) FROM saga WHERE finished_at IS NULL").await > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(longest, settled).await.is_ok()
    }

    /// Describes the subjects that are not settled.
    pub(crate) async fn describe_open(&self) -> String {
        let open = "SELECT subject_id::text FROM saga WHERE finished_at IS NULL";
        let mut lines = Vec::new();
        for id in self.db.texts(open).await {
            let id: Uuid = id.parse().expect("a UUID");
            let faults =
                self.subjects.iter().find(|(known, ..)| *known == id).map(|(_, _, faults)| faults.as_str());
            lines.push(format!(
                "[{}] {}",
                faults.unwrap_or_default(),
                self.subject.describe(&self.db, id).await
            ));
        }
        lines.join("\n")
    }

    /// Says what is wrong: in the books, and with each subject.
    pub(crate) async fn violations(&self) -> Vec<String> {
        let mut wrong = self.db.violations().await;
        for (id, end, faults) in &self.subjects {
            let found = match end {
                End::Succeeded => self.subject.check_succeeded(&self.db, *id).await,
                End::Unwound => self.subject.check_unwound(&self.db, *id).await,
            };
            if !found.is_empty() {
                let story = self.subject.describe(&self.db, *id).await;
                wrong.push(format!("[{faults}] should be {end:?}: {}\n  {story}", found.join("; ")));
            }
        }
        wrong
    }

    /// Runs every subject to its end, asserts that all is well, and removes the database.
    pub(crate) async fn prove(self, change: impl FnOnce(Definition) -> Definition) {
        let runner = self.start_runner(change).await;
        self.settled().await;
        runner.stop().await;
        self.close().await;
    }

    /// Asserts that all is well, and removes the database.
    pub(crate) async fn close(self) {
        let wrong = self.violations().await;
        assert!(wrong.is_empty(), "{}:\n{}", self.name, wrong.join("\n"));
        self.db.discard().await;
    }
}
