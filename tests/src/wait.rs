//! Looking again and again until something is so.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// How long between two looks: short beside what a server needs to start, long beside what a look costs.
pub(crate) const BETWEEN: Duration = Duration::from_millis(10);

/// Looks until `look` finds what it wants, at least once; after `deadline` the answer is what it saw last.
pub(crate) async fn until<T, F, Look>(
    deadline: Duration,
    between: Duration,
    mut look: F,
) -> Result<T, String>
where
    F: FnMut() -> Look,
    Look: Future<Output = Result<T, String>>,
{
    let end = Instant::now() + deadline;
    let mut last = "nothing yet".to_owned();
    loop {
        // A server that hangs must not make the look outlast the deadline.
        match timeout_at(end, look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(seen)) => last = seen,
            Err(_) => {}
        }
        if Instant::now() >= end {
            return Err(last);
        }
        sleep(between).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_does_not_outlast_the_deadline() {
        let begun = Instant::now();
        let mut looks = 0;
        let waited = until(Duration::from_secs(1), BETWEEN, || {
            looks += 1;
            let first = looks == 1;
            async move {
                if first {
                    return Err::<(), _>("first".to_owned());
                }
                std::future::pending().await
            }
        })
        .await;
        assert_eq!(waited.unwrap_err(), "first");
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_found_is_returned_at_once() {
        let begun = Instant::now();
        let waited = until(Duration::ZERO, BETWEEN, async || Ok(7)).await;
        assert_eq!(waited, Ok(7));
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
