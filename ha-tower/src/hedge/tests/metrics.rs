use ::metrics::set_default_local_recorder;

use super::*;
use crate::recorded::Recorded;

#[tokio::test(start_paused = true)]
async fn what_was_sent_won_and_refused_is_counted_under_the_documented_names() {
    let kept = Recorded::default();
    let _guard = set_default_local_recorder(&kept);
    let layer = after(100).name("catalog").shared_budget(budget_of(2));
    let layer = layer.build().unwrap();
    for script in [
        // Won, lost, in time, refused.
        &[(1_000, 200), (1, 200)][..],
        &[(150, 200), (1_000, 200)],
        &[(1, 200)],
        &[(1_000, 200)],
    ] {
        let _ = outcome(&layer, &Server::new(script), request(Method::GET)).await;
    }
    let counted = [
        ("ha_hedge_refused_total{hedge=catalog}", 1),
        ("ha_hedge_sent_total{hedge=catalog}", 2),
        ("ha_hedge_won_total{hedge=catalog}", 1),
    ];
    assert_eq!(kept.counters(), counted.map(|(name, n)| (name.into(), n)));
}
