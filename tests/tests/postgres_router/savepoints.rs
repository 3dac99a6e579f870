//! Parts of a transaction that are undone alone, one inside the other.

use ha_db::postgres::{Causal, Error, Unit};

use crate::cancel::{Bed, add};
use crate::polls::cut_after;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_in_a_part_in_a_unit_is_undone_alone() {
    let bed = Bed::start().await;
    // Rolled back, dropped, and failed: each takes along what is inside of it and nothing else.
    for (run, end) in (1..).zip(["rollback", "drop", "fail"]) {
        let causal = Causal::default();
        let unit = Unit::begin(&bed.router, &causal).await.unwrap();
        add(&unit.client().await.unwrap(), run, "unit").await;
        let mut outer = bed.router.db(causal).transaction().await.unwrap();
        add(&outer, run, "outer").await;
        let mut middle = outer.savepoint().await.unwrap();
        add(&middle, run, "middle").await;
        let inner = middle.savepoint().await.unwrap();
        add(&inner, run, "inner").await;
        inner.commit().await.unwrap();
        match end {
            "rollback" => middle.rollback().await.unwrap(),
            "drop" => drop(middle),
            _ => {
                middle.batch_execute("SELECT 1/0").await.unwrap_err();
                let error = middle.commit().await.unwrap_err();
                assert!(matches!(error, Error::RolledBack { .. }), "{error:?}");
            }
        }
        add(&outer, run, "outer after").await;
        outer.commit().await.unwrap();
        add(&unit.client().await.unwrap(), run, "unit after").await;
        unit.commit().await.unwrap();
        assert_eq!(
            bed.parts(run).await,
            ["outer", "outer after", "unit", "unit after"],
            "{end}"
        );
    }
}

/// Once cut, what a part of a unit did before must not change with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_a_unit_cut_anywhere_takes_nothing_else_along() {
    let bed = Bed::start().await;
    for polls in 0..8_usize {
        for commits in [true, false] {
            let run = i64::try_from(polls * 2 + usize::from(commits)).unwrap();
            let causal = Causal::default();
            let db = bed.router.db(causal.clone());
            let unit = Unit::begin(&bed.router, &causal).await.unwrap();
            // Its savepoint may stay open, around all that follows.
            cut_after(1, db.transaction()).await;
            let tx = db.transaction().await.unwrap();
            add(&tx, run, "kept").await;
            tx.commit().await.unwrap();
            let tx = db.transaction().await.unwrap();
            add(&tx, run, "cut").await;
            if commits {
                cut_after(polls, async { drop(tx.commit().await) }).await;
            } else {
                cut_after(polls, async { drop(tx.rollback().await) }).await;
            }
            unit.commit().await.unwrap();
            let expected: &[_] = if commits && polls > 0 {
                &["cut", "kept"]
            } else {
                &["kept"]
            };
            let parts = bed.parts(run).await;
            assert_eq!(parts, expected, "{polls} polls, commits {commits}");
        }
    }
}

/// The control: the same steps with one name for every savepoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_shared_name_a_late_undo_takes_committed_work_along() {
    let bed = Bed::start().await;
    let sql = "BEGIN; SAVEPOINT s; SAVEPOINT s; INSERT INTO note VALUES (1, 'kept'); RELEASE s; \
         SAVEPOINT s; INSERT INTO note VALUES (1, 'cut'); RELEASE s; \
         ROLLBACK TO s; RELEASE s; COMMIT";
    let naive = bed.cluster.nodes[0].client().await.unwrap();
    naive.batch_execute(sql).await.unwrap();
    assert!(bed.parts(1).await.is_empty());
}
