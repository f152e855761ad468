//! What the embedded Postgres promises, tried on real servers and, where a process has to die, on the real program.

#![expect(clippy::disallowed_methods, reason = "no test here shares its thread with a task")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use oms::postgres::embedded::{Claim, EmbeddedError, EmbeddedOptions, EmbeddedServer};
use oms::postgres::{PoolSettings, join_embedded};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// A folder that is removed when the test is over.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("oms-embedded-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }

    fn options(&self) -> EmbeddedOptions {
        EmbeddedOptions { ephemeral: false, ..EmbeddedOptions::ephemeral(&self.0) }
    }

    fn postmaster(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.0.join("data/postmaster.pid")).ok()?;
        Pid::from_raw(text.lines().next()?.parse().ok()?)
    }

    fn oms(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oms"));
        command
            .args(arguments)
            .env("OMS_DATA_DIR", &self.0)
            .env_remove("DATABASE_URL")
            .env("OMS_LISTEN", "127.0.0.1:0");
        command
    }

    /// Starts `oms serve` and waits for its ready line.
    fn serve(&self) -> Child {
        let mut child =
            self.oms(&["serve", "--log", "warn"]).stdout(Stdio::piped()).spawn().expect("the program starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it was asked for as a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("its output is text");
        assert!(line.starts_with("oms is ready"), "it said {line:?}");
        child
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.oms(arguments).output().expect("the program runs")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(pid) = self.postmaster() {
            let _ = kill_process(pid, Signal::QUIT);
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn kill(child: &mut Child) {
    child.kill().expect("it runs");
    child.wait().expect("it is our child");
}

fn stop(mut child: Child) {
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    assert!(child.wait().expect("it is our child").success());
}

fn process_of(server: &EmbeddedServer) -> Pid {
    Pid::from_raw(server.pid()).expect("a process has a number")
}

#[tokio::test]
async fn an_ephemeral_server_leaves_nothing_behind() {
    let scratch = Scratch::new();
    let database = join_embedded(EmbeddedOptions::ephemeral(&scratch.0)).await.expect("it starts");
    let db = database.connect(&PoolSettings::for_command("test")).await.expect("it answers");
    let pid = scratch.postmaster().expect("it runs");
    db.close().await.expect("the pool closes");
    database.close().await.expect("it stops");
    assert!(test_kill_process(pid).is_err());
    assert!(!Path::new(&scratch.0).exists());
}

#[test]
fn an_ephemeral_server_dies_with_its_process() {
    let scratch = Scratch::new();
    let mut helper = start_helper(&scratch);
    let lines = BufReader::new(helper.stdout.take().expect("it was asked for as a pipe")).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("the server runs")));
    kill(&mut helper);
    assert_nothing_is_left(&scratch);
}

#[test]
fn an_ephemeral_server_dies_with_its_process_even_while_it_starts() {
    for made_so_far in ["data.new", "data.new/global", "data", "data/postmaster.pid"] {
        let scratch = Scratch::new();
        let mut helper = start_helper(&scratch);
        wait_until(|| scratch.0.join(made_so_far).exists(), "the start has come this far");
        kill(&mut helper);
        assert_nothing_is_left(&scratch);
    }
}

fn start_helper(scratch: &Scratch) -> Child {
    Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["--exact", "helper_that_waits_on_an_ephemeral_server", "--ignored", "--nocapture"])
        .env("OMS_TEST_DIR", &scratch.0)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program starts")
}

/// Waits until no process, the guarding shell included, names the folder, and asserts that it is gone.
fn assert_nothing_is_left(scratch: &Scratch) {
    let dir = scratch.0.as_os_str().as_encoded_bytes();
    let names_it = |line: Vec<u8>| line.windows(dir.len()).any(|part| part == dir);
    let processes = || fs::read_dir("/proc").expect("Linux").filter_map(Result::ok);
    let is_named =
        || processes().filter_map(|process| fs::read(process.path().join("cmdline")).ok()).any(names_it);
    wait_until(|| !is_named(), "every process is gone");
    assert!(!scratch.0.exists(), "the folder is gone");
}

fn wait_until(is_so: impl Fn() -> bool, what: &str) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
#[ignore = "started by the tests above, which kill it"]
fn helper_that_waits_on_an_ephemeral_server() {
    let Some(dir) = std::env::var_os("OMS_TEST_DIR") else { return };
    let _server = EmbeddedServer::join(&EmbeddedOptions::ephemeral(PathBuf::from(dir))).expect("it starts");
    println!("the server runs");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn the_last_to_leave_stops_the_server() {
    let scratch = Scratch::new();
    let owner = Claim::take(scratch.options()).expect("the folder is free").start().expect("it starts");
    let visitor = EmbeddedServer::join(&scratch.options()).expect("it runs");
    let pid = process_of(&owner);
    assert_eq!(process_of(&visitor), pid);

    owner.stop().expect("it leaves");
    assert!(test_kill_process(pid).is_ok(), "the visitor still uses it");
    visitor.stop().expect("it leaves");
    assert!(scratch.postmaster().is_none());
}

#[test]
fn a_folder_is_served_from_once() {
    let scratch = Scratch::new();
    let _owner = Claim::take(scratch.options()).expect("the folder is free");
    let second = Claim::take(scratch.options()).expect_err("the folder is taken");
    assert!(matches!(second, EmbeddedError::InUse { pid: Some(pid), .. } if pid == std::process::id()));
}

#[test]
fn a_folder_with_other_files_is_left_alone() {
    let scratch = Scratch::new();
    fs::create_dir(&scratch.0).expect("a fresh name");
    fs::write(scratch.0.join("letter.txt"), "dear reader").expect("the folder is writable");
    assert!(matches!(Claim::take(scratch.options()), Err(EmbeddedError::NotOurs { .. })));
}

#[test]
fn a_path_too_long_for_a_socket_is_refused_before_anything_is_made() {
    let scratch = Scratch::new();
    let options = EmbeddedOptions::new(scratch.0.join("x".repeat(100)));
    let refused = EmbeddedServer::join(&options).expect_err("the path is too long");
    assert!(matches!(refused, EmbeddedError::SocketPathTooLong { .. }), "{refused}");
    assert!(!scratch.0.exists());
}

#[test]
fn a_server_left_by_a_killed_process_is_adopted() {
    let scratch = Scratch::new();
    let mut first = scratch.serve();
    let pid = scratch.postmaster();
    kill(&mut first);
    let second = scratch.serve();
    assert_eq!(scratch.postmaster(), pid);
    stop(second);
    assert_eq!(scratch.postmaster(), None);
}

#[test]
fn data_survives_when_program_and_server_are_killed() {
    let scratch = Scratch::new();
    let mut first = scratch.serve();
    kill(&mut first);
    kill_process(scratch.postmaster().expect("it runs on"), Signal::KILL).expect("it runs on");
    let second = scratch.serve();
    let verified = scratch.run(&["verify"]);
    assert!(verified.status.success());
    assert!(String::from_utf8_lossy(&verified.stdout).contains("9  stock rows"), "the demo catalog is there");
    stop(second);
}

#[test]
fn a_server_that_dies_under_a_running_serve_is_started_again() {
    let scratch = Scratch::new();
    let serve = scratch.serve();
    let dead = scratch.postmaster();
    kill_process(dead.expect("it runs"), Signal::KILL).expect("it runs");
    let end = Instant::now() + Duration::from_secs(20);
    // `verify` joins the server that is there, so it also shows that others find the new one.
    while !scratch.run(&["verify"]).status.success() || scratch.postmaster() == dead {
        assert!(Instant::now() < end, "the server did not come back");
    }
    stop(serve);
    assert_eq!(scratch.postmaster(), None);
}

#[test]
fn a_second_serve_says_so_in_one_line() {
    let scratch = Scratch::new();
    let first = scratch.serve();
    let second = scratch.run(&["serve"]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(&format!("another `oms serve` (process {})", first.id())), "{said}");
    stop(first);
}

#[test]
fn a_subcommand_starts_the_server_for_its_own_duration() {
    let scratch = Scratch::new();
    assert!(scratch.run(&["migrate"]).status.success());
    assert!(scratch.run(&["verify"]).status.success());
    assert_eq!(scratch.postmaster(), None);
}

#[test]
fn a_bad_row_is_named_by_its_line_and_nothing_is_imported() {
    let scratch = Scratch::new();
    assert!(scratch.run(&["migrate"]).status.success());
    let file = scratch.0.join("data.csv");
    let good = "sku,name,price,currency,weight_grams,tax_category,on_hand\nA,a,1.50,USD,1,standard,3\n";
    fs::write(&file, format!("{good}B,b,nothing,USD,1,standard,3\n")).expect("the folder is writable");
    let import = ["catalog", "import", file.to_str().expect("a plain path")];

    let refused = scratch.run(&import);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("line 3: price \"nothing\""));
    assert!(String::from_utf8_lossy(&scratch.run(&["verify"]).stdout).contains(" 0  stock rows"));

    fs::write(&file, good).expect("the folder is writable");
    assert!(scratch.run(&import).status.success());
    let verified = scratch.run(&["verify"]);
    assert!(verified.status.success(), "the imported count is in the ledger");
    assert!(String::from_utf8_lossy(&verified.stdout).contains(" 1  stock rows"));
}
