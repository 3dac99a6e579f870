//! Decisions of the Redis connection: what an outcome says about the node, and whom the Sentinels name. No clock, no
//! socket, no task.

use std::fmt;
use std::time::Duration;

use ::redis::{ErrorKind, RedisError, ServerError, ServerErrorKind};
use serde::Serialize;

/// Why a node was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The link broke.
    Io,
    /// It answered `READONLY`: it is a replica now.
    ReadOnly,
    /// It answered `LOADING`: it has just restarted.
    Loading,
    /// It answered `MASTERDOWN`: it is a replica without a master.
    MasterDown,
    /// As many commands in a row as allowed got no answer.
    Timeouts,
    /// A Sentinel announced another master.
    SwitchMaster,
    /// A Sentinel announced that it starts a failover: what the old master acknowledges from here on may be lost.
    FailoverStarted,
    /// `ROLE` says that it is no master.
    NotMaster,
    /// The Sentinels name another master than the one in use.
    SentinelsDisagree,
    /// The cluster has given the node's slots to another.
    ClusterDisagrees,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Io => "connection broken",
            Self::ReadOnly => "READONLY",
            Self::Loading => "LOADING",
            Self::MasterDown => "MASTERDOWN",
            Self::Timeouts => "timeouts in a row",
            Self::SwitchMaster => "+switch-master",
            Self::FailoverStarted => "+try-failover",
            Self::NotMaster => "ROLE is not master",
            Self::SentinelsDisagree => "sentinels name another master",
            Self::ClusterDisagrees => "the cluster names another master",
        })
    }
}

/// What the result of one command says about the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It answered, well or with an error of the command's own.
    Answered,
    /// No answer before the deadline.
    TimedOut,
    /// The link is of no use any more.
    Broken,
    /// It refused in a way that only a node that is not a working master does.
    Refused(Reason),
    /// Another node of the cluster has the slot, for good or, when it has to be asked, for the keys that have moved already.
    Redirected { to: String, asking: bool },
    /// It works, but cannot serve this slot at the moment.
    NotNow,
}

impl Outcome {
    /// The node has said that it did not run the command.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Refused(_) | Self::Redirected { .. } | Self::NotNow
        )
    }
}

/// Reads an error of the driver.
pub(crate) fn classify(error: &RedisError) -> Outcome {
    match error.kind() {
        _ if error.is_timeout() => Outcome::TimedOut,
        ErrorKind::Io | ErrorKind::Parse => Outcome::Broken,
        // Of a pipeline or a transaction there are several.
        ErrorKind::Server(_) => error
            .clone()
            .into_server_errors()
            .iter()
            .flat_map(|errors| errors.iter())
            .find_map(|(_, error)| refusal(error))
            .unwrap_or(Outcome::Answered),
        _ => Outcome::Answered,
    }
}

/// How a node says that it did not run a command because of what the node is.
fn refusal(error: &ServerError) -> Option<Outcome> {
    Some(match error.kind()? {
        ServerErrorKind::ReadOnly => Outcome::Refused(Reason::ReadOnly),
        ServerErrorKind::BusyLoading => Outcome::Refused(Reason::Loading),
        ServerErrorKind::MasterDown => Outcome::Refused(Reason::MasterDown),
        kind @ (ServerErrorKind::Moved | ServerErrorKind::Ask) => Outcome::Redirected {
            to: error.details()?.split_ascii_whitespace().nth(1)?.to_owned(),
            asking: kind == ServerErrorKind::Ask,
        },
        ServerErrorKind::TryAgain | ServerErrorKind::ClusterDown => Outcome::NotNow,
        // A demotion between queueing and EXEC: the abort carries the cause in its text only.
        ServerErrorKind::ExecAbort if error.details()?.contains("READONLY") => {
            Outcome::Refused(Reason::ReadOnly)
        }
        _ => return None,
    })
}

/// Whether none of these `commands` of a pipeline, by their places in it, has run: it was a transaction that was aborted, or each was
/// refused.
pub(crate) fn nothing_ran(error: &RedisError, mut commands: impl Iterator<Item = usize>) -> bool {
    if error.kind() == ErrorKind::Server(ServerErrorKind::ExecAbort) {
        return true;
    }
    let Some(errors) = error.clone().into_server_errors() else {
        return false;
    };
    let refused = |command: usize| {
        let mut errors = errors.iter();
        errors.any(|(at, error)| *at == command && refusal(error).is_some())
    };
    commands.all(refused)
}

/// What has not been answered, in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Silence {
    /// How many commands, the last one included.
    pub(crate) commands: u32,
    /// Since the first of them was sent.
    pub(crate) lasted: Duration,
}

/// Whether the node has to be given up now. After as many unanswered commands as `limit` says, and only once it has been silent for as long as
/// that many take one after the other: many that are under way at once say no more than one.
pub(crate) fn give_up(
    outcome: &Outcome,
    silence: Silence,
    limit: u32,
    timeout: Duration,
) -> Option<Reason> {
    match outcome {
        Outcome::Answered | Outcome::Redirected { .. } | Outcome::NotNow => None,
        Outcome::Broken => Some(Reason::Io),
        Outcome::Refused(reason) => Some(*reason),
        Outcome::TimedOut => {
            let long = silence.lasted >= timeout.saturating_mul(limit);
            (silence.commands >= limit && long).then_some(Reason::Timeouts)
        }
    }
}

/// What one Sentinel says about the master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// `host:port` of the master.
    pub(crate) master: String,
    /// Version of this Sentinel's view; a completed failover raises it.
    pub(crate) epoch: u64,
    /// This Sentinel leads a failover right now, and does not say yet who the new master is.
    pub(crate) failing_over: bool,
}

/// What to do with the Sentinels' answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Connect to this node, of this epoch. Not `settled` while a failover goes on that was waited for in vain.
    Use {
        master: String,
        epoch: u64,
        settled: bool,
    },
    /// A failover is under way: do not give the old master new writes, ask again soon.
    Hold,
    /// No answer that can be used.
    Nobody,
}

/// Picks the newest view among the answers.
///
/// An epoch below `known` is an older view than one already acted upon, so it is not used: a Sentinel that was cut off
/// still names the old master. Only when a majority of the configured Sentinels answers and none of them knows the
/// newer epoch were they reset, and the count starts over. `hold` is false once a failover has been waited for long
/// enough.
///
/// The Sentinel that leads a failover takes the new epoch as soon as a replica is promoted, and goes on to name the old master until all
/// replicas follow the new one, for minutes where one does not. So whoever does not lead, and names another at that epoch, is right; and the
/// leader alone, with an epoch that is news, says that the old master is over and not who comes after it.
pub(crate) fn choose(answers: &[Answer], configured: usize, known: u64, hold: bool) -> Choice {
    let Some(epoch) = answers.iter().map(|answer| answer.epoch).max() else {
        return Choice::Nobody;
    };
    if epoch < known && answers.len() * 2 <= configured {
        return Choice::Nobody;
    }
    let newest = answers.iter().filter(|answer| answer.epoch == epoch);
    let (leaders, others): (Vec<&Answer>, Vec<&Answer>) =
        newest.partition(|answer| answer.failing_over);
    let is_led_away = |answer: &&&Answer| leaders.iter().all(|led| led.master != answer.master);
    if let Some(promoted) = others.iter().find(is_led_away) {
        return Choice::Use {
            master: promoted.master.clone(),
            epoch,
            settled: true,
        };
    }
    match leaders.first() {
        Some(_) if hold || (others.is_empty() && epoch > known) => Choice::Hold,
        Some(led) => Choice::Use {
            master: led.master.clone(),
            epoch,
            settled: false,
        },
        None => Choice::Nobody,
    }
}

/// Whether enough of the Sentinels have answered that the rest need not be waited for, beyond a moment: most of those that can be heard are, and
/// with a dead host this may be all there is.
pub(crate) fn is_quorum(answered: usize, configured: usize) -> bool {
    answered * 2 > configured
}

/// Reads the reply to `SENTINEL MASTER`, a flat list of names and values, and the one to `SENTINEL GET-MASTER-ADDR-BY-NAME`, where there is
/// one. The latter names the promoted replica while the former still names the old master.
pub(crate) fn parse_master(fields: &[String], by_name: Option<(String, u16)>) -> Option<Answer> {
    let field = |name: &str| {
        fields
            .chunks_exact(2)
            .find(|pair| pair[0] == name)
            .map(|pair| pair[1].as_str())
    };
    let watched = address(field("ip")?, field("port")?.parse().ok()?);
    let promoted = by_name
        .map(|(host, port)| address(&host, port))
        .filter(|named| *named != watched);
    let mut flags = field("flags")?.split(',');
    Some(Answer {
        epoch: field("config-epoch")?.parse().ok()?,
        failing_over: promoted.is_none() && flags.any(|flag| flag == "failover_in_progress"),
        master: promoted.unwrap_or(watched),
    })
}

/// What a Sentinel announced on its channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The master is this node from now on.
    Switched { to: String },
    /// A failover of the master starts.
    FailoverStarted,
}

/// Reads a Sentinel's announcement; `None` when it is about another master or not understood.
pub(crate) fn parse_event(channel: &str, payload: &str, name: &str) -> Option<Event> {
    let words: Vec<&str> = payload.split(' ').collect();
    match (channel, words.as_slice()) {
        ("+switch-master", [master, _, _, ip, port]) if *master == name => Some(Event::Switched {
            to: address(ip, port.parse().ok()?),
        }),
        ("+try-failover", ["master", master, ..]) if *master == name => {
            Some(Event::FailoverStarted)
        }
        _ => None,
    }
}

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(master: &str, epoch: u64) -> Answer {
        Answer {
            master: master.into(),
            epoch,
            failing_over: false,
        }
    }

    fn used(master: &str, epoch: u64) -> Choice {
        Choice::Use {
            master: master.into(),
            epoch,
            settled: true,
        }
    }

    fn server(code: &'static str) -> RedisError {
        ::redis::parse_redis_value(format!("-{code} text\r\n").as_bytes())
            .and_then(|value| value.extract_error())
            .unwrap_err()
    }

    #[test]
    fn refusals_of_a_demoted_or_restarted_node_are_told_from_errors_of_the_command() {
        let refused = Outcome::Refused;
        for (code, outcome) in [
            ("READONLY", refused(Reason::ReadOnly)),
            ("LOADING", refused(Reason::Loading)),
            ("MASTERDOWN", refused(Reason::MasterDown)),
            ("WRONGTYPE", Outcome::Answered),
            ("ERR", Outcome::Answered),
            ("NOSCRIPT", Outcome::Answered),
            ("NOPERM", Outcome::Answered),
            ("OOM", Outcome::Answered),
            ("CROSSSLOT", Outcome::Answered),
            ("TRYAGAIN", Outcome::NotNow),
            ("CLUSTERDOWN", Outcome::NotNow),
        ] {
            assert_eq!(classify(&server(code)), outcome, "{code}");
        }
        for (kind, outcome) in [
            (std::io::ErrorKind::TimedOut, Outcome::TimedOut),
            (std::io::ErrorKind::BrokenPipe, Outcome::Broken),
            (std::io::ErrorKind::ConnectionReset, Outcome::Broken),
            (std::io::ErrorKind::UnexpectedEof, Outcome::Broken),
        ] {
            let error = RedisError::from(std::io::Error::from(kind));
            assert_eq!(classify(&error), outcome, "{kind:?}");
        }
    }

    #[test]
    fn a_redirection_names_where_to_and_whether_to_ask() {
        for (text, to, asking) in [
            ("MOVED 3999 127.0.0.1:6381", "127.0.0.1:6381", false),
            ("ASK 3999 ::1:6381", "::1:6381", true),
            ("MOVED 3999 :6381", ":6381", false),
        ] {
            let error = ::redis::parse_redis_value(format!("-{text}\r\n").as_bytes())
                .and_then(|value| value.extract_error())
                .unwrap_err();
            let to = to.to_owned();
            assert_eq!(classify(&error), Outcome::Redirected { to, asking });
            assert!(nothing_ran(&error, 0..1));
            assert!(!nothing_ran(&error, 0..2), "the other may have run");
        }
    }

    #[test]
    fn a_node_is_given_up_at_once_or_after_timeouts_in_a_row() {
        let timeout = Duration::from_millis(500);
        let silent = |commands, lasted| Silence {
            commands,
            lasted: Duration::from_millis(lasted),
        };
        let timed_out = Some(Reason::Timeouts);
        for (outcome, silence, expected) in [
            (Outcome::Answered, silent(0, 0), None),
            (Outcome::Answered, silent(9, 9000), None),
            (Outcome::TimedOut, silent(1, 500), None),
            (Outcome::TimedOut, silent(2, 9000), None),
            (Outcome::TimedOut, silent(3, 1500), timed_out),
            // At once behind one slow script, or with a deadline of their own: that says nothing.
            (Outcome::TimedOut, silent(3, 500), None),
            (Outcome::TimedOut, silent(900, 1499), None),
            (Outcome::TimedOut, silent(900, 1500), timed_out),
            (Outcome::Broken, silent(0, 0), Some(Reason::Io)),
            (
                Outcome::Refused(Reason::Loading),
                silent(0, 0),
                Some(Reason::Loading),
            ),
        ] {
            let found = give_up(&outcome, silence, 3, timeout);
            assert_eq!(found, expected, "{outcome:?} {silence:?}");
        }
        let impatient = give_up(&Outcome::TimedOut, silent(1, 500), 1, timeout);
        assert_eq!(impatient, timed_out);
    }

    #[test]
    fn the_newest_view_wins_whoever_answers_first() {
        let old = answer("a:1", 4);
        let new = answer("b:1", 5);
        for answers in [[old.clone(), new.clone()], [new.clone(), old.clone()]] {
            assert_eq!(choose(&answers, 3, 0, true), used("b:1", 5));
        }
        assert_eq!(choose(&[], 3, 0, true), Choice::Nobody);
    }

    #[test]
    fn a_sentinel_that_was_cut_off_cannot_bring_the_old_master_back() {
        let stale = answer("a:1", 4);
        assert_eq!(
            choose(std::slice::from_ref(&stale), 3, 5, true),
            Choice::Nobody
        );
        assert_eq!(
            choose(std::slice::from_ref(&stale), 2, 5, true),
            Choice::Nobody,
            "half is no majority"
        );
    }

    #[test]
    fn a_majority_that_was_reset_starts_over() {
        let reset = [answer("a:1", 0), answer("a:1", 0)];
        assert_eq!(choose(&reset, 3, 5, true), used("a:1", 0));
        assert_eq!(choose(&reset[..1], 1, 5, true), used("a:1", 0));
    }

    #[test]
    fn a_failover_under_way_holds_writes_back_until_it_has_been_waited_for() {
        let leader = Answer {
            failing_over: true,
            ..answer("a:1", 4)
        };
        let answers = [answer("a:1", 4), leader.clone()];
        assert_eq!(choose(&answers, 3, 4, true), Choice::Hold);
        let unsettled = Choice::Use {
            master: "a:1".into(),
            epoch: 4,
            settled: false,
        };
        assert_eq!(choose(&answers, 3, 4, false), unsettled);
        let over = [leader, answer("b:1", 5)];
        assert_eq!(
            choose(&over, 3, 4, true),
            used("b:1", 5),
            "an older failover"
        );
    }

    #[test]
    fn who_leads_a_failover_names_the_old_master_and_is_not_asked_for_the_new_one() {
        let leader = Answer {
            failing_over: true,
            ..answer("a:1", 5)
        };
        let told = answer("b:1", 5);
        let behind = answer("a:1", 4);
        let mut astray = 0;
        // Whatever the order, and whether or not commands are held back.
        for answers in [
            vec![leader.clone(), told.clone(), behind.clone()],
            vec![told.clone(), behind.clone(), leader.clone()],
            vec![behind.clone(), leader.clone(), told.clone()],
        ] {
            for hold in [true, false] {
                assert_eq!(choose(&answers, 3, 4, hold), used("b:1", 5));
                assert_eq!(choose(&answers, 3, 5, hold), used("b:1", 5), "connected");
            }
            // The control: any of the highest epoch, whoever says it.
            let naive = answers.iter().max_by_key(|answer| answer.epoch);
            astray += u32::from(naive.unwrap().master != "b:1");
        }
        assert!(astray > 0);
        let alone = [behind, leader];
        assert_eq!(choose(&alone, 3, 4, true), Choice::Hold);
        assert_eq!(
            choose(&alone, 3, 4, false),
            Choice::Hold,
            "promoted, but who"
        );
    }

    #[test]
    fn the_reply_of_sentinel_master_is_read_by_name() {
        let fields = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let good =
            "name m ip 10.0.0.1 port 6379 flags master,o_down,failover_in_progress config-epoch 7";
        let led = Answer {
            master: "10.0.0.1:6379".into(),
            epoch: 7,
            failing_over: true,
        };
        assert_eq!(parse_master(&fields(good), None), Some(led.clone()));
        let same = Some(("10.0.0.1".to_owned(), 6379));
        assert_eq!(parse_master(&fields(good), same), Some(led));
        let promoted = Some(("10.0.0.2".to_owned(), 6379));
        assert_eq!(
            parse_master(&fields(good), promoted),
            Some(answer("10.0.0.2:6379", 7))
        );
        for bad in [
            "",
            "ip",
            "ip 10.0.0.1 port x flags master config-epoch 7",
            "ip 10.0.0.1 port 70000 flags master config-epoch 7",
            "ip 10.0.0.1 port 1 flags master",
        ] {
            assert_eq!(parse_master(&fields(bad), None), None, "{bad}");
        }
        let six = "ip ::1 port 6379 flags master config-epoch 0";
        assert_eq!(
            parse_master(&fields(six), None).unwrap().master,
            "[::1]:6379"
        );
    }

    #[test]
    fn announcements_about_other_masters_are_ignored() {
        let switched = Event::Switched { to: "b:2".into() };
        for (channel, payload, expected) in [
            ("+switch-master", "m a 1 b 2", Some(switched)),
            ("+switch-master", "other a 1 b 2", None),
            ("+switch-master", "m a 1 b", None),
            ("+switch-master", "m a 1 b x", None),
            (
                "+try-failover",
                "master m a 1",
                Some(Event::FailoverStarted),
            ),
            ("+try-failover", "master other a 1", None),
            ("+sdown", "master m a 1", None),
            ("+switch-master", "", None),
        ] {
            assert_eq!(
                parse_event(channel, payload, "m"),
                expected,
                "{channel} {payload}"
            );
        }
    }
}
