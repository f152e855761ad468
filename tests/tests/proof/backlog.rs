//! Another system is down, and more and more sagas wait for it.

use std::time::Duration;

use oms_tests::disturb::{Disturbance, Fault};
use oms_tests::{TestDatabase, eventually};
use saga::engine::{Definitions, Direction, operate, store};
use tokio::time::Instant;

use crate::bench::{Bench, End};

/// Several times as many as it takes for a system to count as down.
const BACKLOG: usize = 300;

/// More attempts than any test makes.
const ALWAYS: u32 = 1_000_000;

/// For how long moves are counted.
const WATCHED: Duration = Duration::from_secs(3);

/// The most timers that sagas may be given in that time. There are four trials in a second; the saga of each waits for
/// its next attempt, and then for the system. A look at each waiting saga in each half second would be 1,800.
const MOST_MOVES: i64 = 4 * 2 * 3 + 20;

/// How soon everything is done once the system answers: the next trial comes within a quarter of a second, and the rest
/// is work.
const DONE_WITHIN: Duration = Duration::from_secs(10);

const PARKED: &str = "SELECT count(*) FROM saga_timer WHERE parked_for IS NOT NULL";

/// Counts the timers that sagas are given from now on.
async fn count_timers(db: &TestDatabase) {
    db.execute(
        "CREATE SEQUENCE timers_given MINVALUE 0 START 0;
         SELECT nextval('timers_given');
         CREATE FUNCTION count_timer() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM nextval('timers_given');
             RETURN NULL;
         END $$;
         CREATE TRIGGER timer_given AFTER INSERT ON saga_timer FOR EACH ROW EXECUTE FUNCTION count_timer()",
    )
    .await;
}

async fn timers_given(db: &TestDatabase) -> i64 {
    db.number("SELECT last_value FROM timers_given").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_that_waits_for_another_system_costs_nothing_and_holds_up_nobody() {
    for mut bench in Bench::for_every_saga().await {
        bench.disturb_everybody(
            Disturbance::once("authorize_payment", Direction::Forward, Fault::ServerError).times(ALWAYS),
        );
        for _ in 0..BACKLOG {
            bench.begin(End::Succeeded, &[]).await;
        }
        let runner = bench.start_runner(|saga| saga).await;
        eventually(
            "the first attempts and their retries are over, and all wait for the system but a trial",
            async || (bench.db.number(PARKED).await >= BACKLOG as i64 - 1).then_some(()),
        )
        .await;
        count_timers(&bench.db).await;
        let late = bench.begin(End::Succeeded, &[]).await;
        tokio::time::sleep(WATCHED).await;
        let moves = timers_given(&bench.db).await;
        assert!(moves <= MOST_MOVES, "{moves} timers in {WATCHED:?}");
        let reserved =
            format!("SELECT count(*) FROM reservations WHERE status = 'HELD' AND order_id = '{late}'");
        assert_eq!(
            bench.db.number(&reserved).await,
            2,
            "a saga that comes later takes the steps before the call"
        );

        // What another process says of it, from rows alone.
        let db = bench.db.connection();
        let definitions = Definitions::try_new([bench.definition()]).expect("it is well defined");
        let found =
            operate::find(&db, &definitions, late).await.expect("it can be read").expect("it is there");
        assert_eq!(found.parked_for.as_deref(), Some("simulated"));
        let explained = operate::explain(&found, &definitions).join(" ");
        assert!(explained.contains("simulated gives no answers; calls to it are held back"), "{explained}");
        let parked = operate::count_parked(&db).await.expect("they can be counted");
        let survey = store::survey(&db).await.expect("they can be counted");
        assert_eq!((parked.len(), survey.stuck, survey.held), (1, 0, 0));
        assert!(parked[0].sagas >= BACKLOG as i64 - 20, "{parked:?}");
        assert!(survey.parked >= BACKLOG as i64 - 20, "{survey:?}");

        let back = Instant::now();
        bench.forgive();
        bench.settled().await;
        let took = back.elapsed();
        assert!(took < DONE_WITHIN, "the system was back for {took:?}");
        runner.stop().await;
        bench.close().await;
    }
}
