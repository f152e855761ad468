//! Sends a running server what nobody should send, and a lot of what everybody may, and reads each answer.
//!
//! ```text
//! cargo run -p oms-tests --bin fuzz -- --seconds 120
//! ```
//!
//! Requests are put together from the server's own schema, with arguments that fit and others that do not, and from
//! fragments and nestings without end; then some are cut, doubled and scrambled. They come by POST, by GET and over a
//! WebSocket, from an operator, an app with a budget, a shopper and nobody. Whatever comes, the server must answer in time, in JSON, with a status below 500, and with a
//! response that the GraphQL specification allows (section 7.1). The exit code is 1 if it ever did not.

mod answers;
mod requests;
mod ways;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::Parser;
use domain::app::Scope;
use indicatif::{ProgressBar, ProgressStyle};
use oms_tests::{Client, Shop, app_with_key, is_on_a_leash, key_of, order, run_oms_on_a_leash};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::json;

use crate::requests::Schema;

/// Requests on their way at a time.
const IN_FLIGHT: usize = 8;

/// How long beginning, the last answers and the end may take together.
const TO_THE_END: Duration = Duration::from_secs(60);

/// The most faults that are told; more are counted.
const MAX_TOLD: usize = 20;

/// Send a server what nobody should send, and check every answer
#[derive(Debug, Parser)]
#[command(name = "fuzz")]
struct Args {
    /// Seconds to go on
    #[arg(long, default_value_t = 120)]
    seconds: u64,

    /// Decides what is sent; another number is another run [default: a random one, which is printed]
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
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
    let longest = Duration::from_secs(args.seconds) + TO_THE_END;
    // A server that computes without end leaves no thread of its runtime to anybody else.
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || done.send(runtime.block_on(run(&args))));
    match is_done.recv_timeout(longest) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(_) => {
            say(&format!(
                "not done after {} s: the server hangs, or this program has panicked",
                longest.as_secs()
            ));
            ExitCode::FAILURE
        }
    }
}

fn say(line: &str) {
    // Nobody may be listening.
    let _ = writeln!(io::stdout(), "{line}");
}

/// The callers: one who may do everything, one with a budget, a shopper with an order's token, and nobody.
async fn callers(shop: &Shop) -> Vec<Client> {
    let db = shop.db.connection();
    let everything = app_with_key(&db, "everything", &Scope::ALL).await;
    let everything = shop.with(&everything.secret);
    let app = domain::app::store::create_app(&db, "storefront", None).await.expect("an app");
    let storefront = shop.with(&key_of(&db, app.id, &[Scope::OrdersWrite], &[]).await.secret);
    let place = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { accessToken } }";
    let input = order("a shopper's", [("SKU-1", 1)]).settled().into_value();
    let placed = storefront.execute(place, json!({ "input": input })).await;
    let shopper = shop.with(placed["placeOrder"]["accessToken"].as_str().expect("a token"));
    vec![everything, storefront, shopper, Client::clone(shop)]
}

/// What one of those who send at a time has found.
#[derive(Default)]
struct Found {
    sent: usize,
    slowest: Duration,
    faults: Vec<String>,
}

/// Runs for as long as it was told, and returns how many answers were wrong.
async fn run(args: &Args) -> usize {
    let seed = args.seed.unwrap_or_else(rand::random);
    say(&format!("fuzzing for {} s with --seed {seed}", args.seconds));
    let shop = Shop::open_with(|args| args.access.dev_anonymous = false).await;
    let callers = callers(&shop).await;
    let id = callers[0].place(order("known", [("SKU-1", 1)]).settled()).await.id().to_owned();
    let schema = Schema::of(&callers[0]).await;
    let bar = ProgressBar::new(args.seconds)
        .with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} s  {msg}").expect("a template"));
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut senders = Vec::new();
    for sender in 0..IN_FLIGHT {
        let (callers, schema, id, bar) = (callers.clone(), schema.clone(), id.clone(), bar.clone());
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(sender as u64));
        senders.push(tokio::spawn(async move {
            let mut found = Found::default();
            let begun = Instant::now();
            while Instant::now() < end {
                let request = schema.request(&mut random, &id);
                // Whoever may do most is asked for most.
                let caller = &callers[*[0, 0, 0, 0, 0, 1, 2, 3].choose(&mut random).expect("some")];
                let answer = ways::send(caller, &request, &mut random).await;
                if let Some(fault) = answer.fault {
                    found.faults.push(format!("{fault}\n  {}", request.describe()));
                }
                found.slowest = found.slowest.max(answer.took);
                found.sent += 1;
                if sender == 0 {
                    bar.set_position(begun.elapsed().as_secs());
                    bar.set_message(format!("about {} requests", found.sent * IN_FLIGHT));
                }
            }
            found
        }));
    }
    let mut all = Found::default();
    for sender in senders {
        let found = sender.await.expect("a sender does not panic");
        all.sent += found.sent;
        all.slowest = all.slowest.max(found.slowest);
        all.faults.extend(found.faults);
    }
    bar.finish_and_clear();
    for fault in all.faults.iter().take(MAX_TOLD) {
        say(fault);
    }
    // The server has kept its wits, and its books.
    assert_eq!(callers[0].order(&id).await["status"], "CONFIRMED");
    shop.close().await;
    let Found { sent, slowest, faults } = all;
    say(&format!(
        "{sent} requests, {} wrong answers, the slowest after {} ms",
        faults.len(),
        slowest.as_millis()
    ));
    faults.len()
}
