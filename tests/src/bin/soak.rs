//! Three processes, one Postgres, and everything that can go wrong, for as long as you like.
//!
//! ```text
//! cargo run -p oms-tests --bin soak -- --minutes 2
//! ```
//!
//! Clients place orders all the while, repeat what was not answered, and watch some of them. Processes are killed,
//! stopped and restarted at random; Postgres crashes every 5 to 40 seconds; one card in ten misbehaves. In the end the
//! faults stop, everything settles, and `verify` is the judge, together with what the clients were told. The exit code
//! is 1 if anything was lost, doubled or shown out of order. Nothing is left behind, however the run ends.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clap::Parser;
use domain::id::OrderId;
use indicatif::{ProgressBar, ProgressStyle};
use oms_tests::load::{Die, Load, LoadSettings, Targets, Told};
use oms_tests::own_postgres::{Crash, OwnPostgres};
use oms_tests::{OmsProcess, TestDatabase, is_on_a_leash, run_oms_on_a_leash};
use rustix::process::Signal;
use tokio::sync::RwLock;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Processes that share the work.
const PROCESSES: usize = 3;

/// How long everything may take to settle once nothing goes wrong any more: the slowest retry, and a busy machine.
const SETTLE_WITHIN: Duration = Duration::from_secs(120);

/// How often a line is written where there is no terminal for a bar.
const LINE_INTERVAL: Duration = Duration::from_secs(30);

/// What the processes are told: short times, so that two minutes hold many of them.
const SETTINGS: [(&str, &str); 5] = [
    ("OMS_GATEWAY_TIMEOUT_MS", "1000"),
    ("OMS_GATEWAY_DELAY_MS", "5"),
    ("OMS_RUNNER_WORKER_LEASE_SECONDS", "2"),
    ("OMS_POOL_SIZE", "10"),
    ("OMS_RUNNER_POOL_SIZE", "8"),
];

/// Crash processes and Postgres under load for a while, and check that nothing is lost or doubled
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Args {
    /// Minutes of faults; what comes after takes as long as it takes to settle
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,

    /// Decides what happens when; another number is another run [default: a random one, which is printed]
    #[arg(long)]
    seed: Option<u64>,

    /// Orders a second
    #[arg(long, default_value_t = 40)]
    rate: u64,
}

fn main() -> ExitCode {
    // The processes under test are this program as well.
    if is_on_a_leash() {
        return run_oms_on_a_leash();
    }
    let args = Args::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("cannot start the threads of this process: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let violations = runtime.block_on(run(&args));
    if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn say(line: &str) {
    // Nobody may be listening.
    let _ = writeln!(io::stdout(), "{line}");
}

/// What was done to the site.
#[derive(Debug, Default)]
struct Faults {
    kills: AtomicU32,
    stops: AtomicU32,
    terms: AtomicU32,
    restarts: AtomicU32,
    postmaster_kills: AtomicU32,
}

impl Faults {
    fn add(counter: &AtomicU32) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn count(counter: &AtomicU32) -> u32 {
        counter.load(Ordering::Relaxed)
    }
}

/// Everything that is under test.
struct Site {
    program: String,
    db: TestDatabase,
    targets: Arc<Targets>,
    faults: Faults,
    /// Written while Postgres is away; a process that starts reads, since it needs a Postgres to migrate.
    postgres: RwLock<OwnPostgres>,
}

async fn run(args: &Args) -> Vec<String> {
    let seed = args.seed.unwrap_or_else(|| u64::from(std::process::id()) ^ seconds_of_the_epoch());
    say(&format!(
        "seed {seed}, {} minutes, {} orders a second, {PROCESSES} processes",
        args.minutes, args.rate
    ));
    let program = std::env::current_exe().expect("this program has a path").display().to_string();
    let postgres = OwnPostgres::start().await;
    let db = TestDatabase::create_in(&postgres).await;
    let site = Site {
        program,
        db,
        targets: Arc::default(),
        faults: Faults::default(),
        postgres: RwLock::new(postgres),
    };
    let load = Load::start(
        site.targets.clone(),
        LoadSettings { seed, clients: 8, rate: args.rate, one_bad_card_in: 10, one_viewer_in: 5 },
    );
    let length = Duration::from_secs_f64(args.minutes * 60.0);
    let over = CancellationToken::new();
    let (wrong, ()) = tokio::join!(
        async {
            let lives = futures_util::future::join_all(
                (0..PROCESSES).map(|number| site.live(number, Die::new(seed ^ number as u64), &over, length)),
            );
            let (lives, ()) = tokio::join!(lives, site.crash_postgres(Die::new(!seed), &over));
            lives
        },
        async {
            site.show_progress(&load, length).await;
            over.cancel();
        },
    );
    let (mut processes, mut violations) = (Vec::new(), Vec::new());
    for (process, wrong) in wrong {
        processes.push(process);
        violations.extend(wrong);
    }
    say("the faults are over; waiting until everything has settled");
    let told = timeout(SETTLE_WITHIN, load.finish()).await;
    let settled = timeout(SETTLE_WITHIN, site.settled()).await;
    if settled.is_err() {
        violations.push(format!("not settled within {SETTLE_WITHIN:?}: {}", site.open_sagas().await));
    }
    match told {
        Ok(told) => violations.extend(site.judge(told).await),
        Err(_) => violations.push(format!("some client has no answer within {SETTLE_WITHIN:?}")),
    }
    for process in processes {
        process.stop().await;
    }
    site.db.discard().await;
    site.postgres.into_inner().stop().await;
    report(&site.faults, &violations, seed);
    violations
}

fn seconds_of_the_epoch() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn report(faults: &Faults, violations: &[String], seed: u64) {
    let rows = [
        ("process killed", Faults::count(&faults.kills)),
        ("process stopped and continued", Faults::count(&faults.stops)),
        ("process asked to end and restarted", Faults::count(&faults.terms)),
        ("Postgres restarted (-m immediate)", Faults::count(&faults.restarts)),
        ("postmaster killed", Faults::count(&faults.postmaster_kills)),
    ];
    let mut text = "| fault | times |\n|---|---|\n".to_owned();
    for (fault, times) in rows {
        // A string takes everything.
        let _ = writeln!(text, "| {fault} | {times} |");
    }
    say(&text);
    for violation in violations {
        say(&format!("VIOLATION: {violation}"));
    }
    match violations.len() {
        0 => say("nothing was lost, doubled or shown out of order"),
        count => say(&format!("{count} violations; seed {seed} throws the same dice again")),
    }
}

impl Site {
    async fn start(&self, number: usize) -> OmsProcess {
        let _postgres = self.postgres.read().await;
        let process = OmsProcess::start(&self.program, &self.db, "all", &SETTINGS).await;
        self.targets.set(number, Some(process.client().addr()));
        process
    }

    /// Starts a process, and does to it what the die says until the time is over. Returns it running, with what nobody
    /// did to it.
    async fn live(
        &self,
        number: usize,
        mut die: Die,
        over: &CancellationToken,
        length: Duration,
    ) -> (OmsProcess, Vec<String>) {
        let (mut process, mut wrong) = (self.start(number).await, Vec::new());
        let end = Instant::now() + length;
        loop {
            let pause = Duration::from_millis(2_000 + die.below(10_000));
            if over.run_until_cancelled(sleep(pause)).await.is_none() || Instant::now() >= end {
                break;
            }
            if !process.is_alive() {
                wrong.push(format!("process {number} ended by itself"));
                process = self.start(number).await;
            }
            match die.below(5) {
                0 | 1 => {
                    Faults::add(&self.faults.kills);
                    process.kill().await;
                    self.targets.set(number, None);
                    process = self.start(number).await;
                }
                2 | 3 => {
                    Faults::add(&self.faults.stops);
                    process.signal(Signal::STOP);
                    over.run_until_cancelled(sleep(Duration::from_millis(500 + die.below(7_500)))).await;
                    process.signal(Signal::CONT);
                }
                _ => {
                    Faults::add(&self.faults.terms);
                    process.stop().await;
                    self.targets.set(number, None);
                    process = self.start(number).await;
                }
            }
        }
        (process, wrong)
    }

    async fn crash_postgres(&self, mut die: Die, over: &CancellationToken) {
        loop {
            let pause = Duration::from_millis(5_000 + die.below(35_000));
            if over.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
            let away = Duration::from_millis(die.below(3_000));
            let postgres = self.postgres.write().await;
            let how = if die.below(3) == 0 { Crash::Kill } else { Crash::Immediate };
            Faults::add(if how == Crash::Kill {
                &self.faults.postmaster_kills
            } else {
                &self.faults.restarts
            });
            postgres.crash(how).await;
            sleep(away).await;
            postgres.start_again().await;
        }
    }

    async fn show_progress(&self, load: &Load, length: Duration) {
        let bar = ProgressBar::new(length.as_secs());
        let style = ProgressStyle::with_template("{elapsed_precise} {bar:40} {pos}/{len} s  {msg}");
        bar.set_style(style.expect("the template is well formed"));
        let begun = Instant::now();
        let mut next_line = LINE_INTERVAL;
        while begun.elapsed() < length {
            bar.set_position(begun.elapsed().as_secs());
            let faults = &self.faults;
            let postgres = Faults::count(&faults.restarts) + Faults::count(&faults.postmaster_kills);
            let message = format!(
                "{} orders, {} kills, {} stops, {} restarts, {postgres} crashes of Postgres, {} wrong",
                load.look(|told| told.acknowledged.len()),
                Faults::count(&faults.kills),
                Faults::count(&faults.stops),
                Faults::count(&faults.terms),
                load.look(|told| told.wrong.len()),
            );
            if bar.is_hidden() && begun.elapsed() >= next_line {
                say(&format!("{} s: {message}", begun.elapsed().as_secs()));
                next_line += LINE_INTERVAL;
            }
            bar.set_message(message);
            sleep(Duration::from_millis(250).min(length)).await;
        }
        bar.finish();
    }

    async fn settled(&self) {
        let open = "SELECT (SELECT count(*) FROM orders WHERE status = 'PENDING')
                         + (SELECT count(*) FROM saga WHERE finished_at IS NULL)";
        while self.db.number(open).await > 0 {
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn open_sagas(&self) -> String {
        let open = "SELECT format('%s %s step %s attempt %s since %s', id, status, step, attempt, step_since)
                    FROM saga WHERE finished_at IS NULL LIMIT 20";
        self.db.texts(open).await.join("; ")
    }

    /// Says what is wrong in the books, and what the clients were told that is not so.
    async fn judge(&self, told: Told) -> Vec<String> {
        let mut wrong = self.db.violations().await;
        wrong.extend(told.wrong);
        let orders = self.db.texts("SELECT id || ' ' || idempotency_key FROM orders").await;
        let orders: std::collections::HashSet<String> = orders.into_iter().collect();
        for (key, id) in &told.acknowledged {
            let is_there =
                id.parse::<OrderId>().is_ok_and(|id| orders.contains(&format!("{} {key}", id.uuid())));
            if !is_there {
                wrong.push(format!("{id} was acknowledged for {key} and is not there"));
            }
        }
        let keys = self.db.number("SELECT count(DISTINCT idempotency_key) FROM orders").await;
        if keys != orders.len() as i64 {
            wrong.push(format!("{} orders have {keys} keys", orders.len()));
        }
        let confirmed = self.db.number("SELECT count(*) FROM orders WHERE status = 'CONFIRMED'").await;
        let captures = "SELECT coalesce(sum(captures), 0)::bigint FROM simulated_gateway_payments";
        let captures = self.db.number(captures).await;
        if captures != confirmed {
            wrong.push(format!(
                "{confirmed} orders are confirmed, and the gateway took money {captures} times"
            ));
        }
        let internal = "SELECT id::text FROM orders WHERE failure_code = 'INTERNAL'";
        for id in self.db.texts(internal).await {
            wrong.push(format!("order {id} failed though nothing was wrong with it"));
        }
        for (id, last) in &told.watched {
            let Ok(uuid) = id.parse::<OrderId>().map(|id| id.uuid()) else { continue };
            let sequence =
                self.db.number(&format!("SELECT sequence::bigint FROM orders WHERE id = '{uuid}'")).await;
            if *last != sequence {
                wrong.push(format!("{id} has {sequence} events, and its viewer was shown {last}"));
            }
        }
        let failed = orders.len() as i64 - confirmed;
        say(&format!(
            "{} orders acknowledged, {confirmed} confirmed, {failed} failed; {} stories watched over {} connections; \
             {} answers said to come back later, {} requests had none",
            told.acknowledged.len(),
            told.watched.len(),
            told.connections,
            told.unavailable,
            told.unanswered,
        ));
        wrong
    }
}
