//! Names and labels are documented in the [module](super).

#[cfg(feature = "metrics")]
fn one_more(name: &'static str, hedge: &str) {
    metrics::counter!(name, "hedge" => hedge.to_owned()).increment(1);
}

#[cfg(not(feature = "metrics"))]
const fn one_more(_: &'static str, _: &str) {}

pub(super) fn sent(hedge: &str) {
    one_more("ha_hedge_sent_total", hedge);
}

pub(super) fn won(hedge: &str) {
    one_more("ha_hedge_won_total", hedge);
}

pub(super) fn refused(hedge: &str) {
    one_more("ha_hedge_refused_total", hedge);
}
