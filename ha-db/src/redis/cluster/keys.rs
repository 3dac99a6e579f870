//! Which slot a command belongs to.

use ::redis::{Arg, Cmd, Pipeline};

const CRC: crc::Crc<u16> = crc::Crc::<u16>::new(&crc::CRC_16_XMODEM);

/// How many slots every cluster has.
pub(crate) const SLOTS: u16 = 16_384;

/// Where in a cluster something has to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// At the owner of this slot.
    Slot(u16),
    /// Anywhere: it has no key.
    Anywhere,
    /// Nowhere: it is about every node, and an answer of one would pass for that of all.
    Everywhere,
    /// Nowhere: it is about several slots.
    Several,
}

/// The slot of a key: of what stands in its first braces, if anything does.
pub(crate) fn slot(key: &[u8]) -> u16 {
    let tag = key
        .iter()
        .position(|c| *c == b'{')
        .map(|open| &key[open + 1..])
        .and_then(|rest| {
            rest.iter()
                .position(|c| *c == b'}')
                .map(|close| &rest[..close])
        })
        .filter(|tag| !tag.is_empty());
    CRC.checksum(tag.unwrap_or(key)) % SLOTS
}

/// What only asks, and is answered alike by every node of a cluster that is set up as one.
const SAME_EVERYWHERE: &[&str] = &[
    "CAT", "DRYRUN", "DUMP", "GENPASS", "GET", "GETUSER", "HELP", "INFO", "KEYSLOT", "LIST",
    "NODES", "SHARDS", "SLOTS", "USERS", "WHOAMI",
];

/// The place of one command.
pub(crate) fn of_command(command: &Cmd) -> Place {
    let word = |at: usize| match command.args_iter().nth(at) {
        Some(Arg::Simple(bytes)) => Some(bytes),
        _ => None,
    };
    let name = word(0).unwrap_or_default().to_ascii_uppercase();
    let at = match name.as_slice() {
        b"PING" | b"ECHO" | b"TIME" | b"INFO" | b"COMMAND" | b"ROLE" | b"PUBLISH" | b"LOLWUT" => {
            return Place::Anywhere;
        }
        // Every node has its own, or has to be told.
        b"KEYS" | b"SCAN" | b"DBSIZE" | b"FLUSHALL" | b"FLUSHDB" | b"RANDOMKEY" | b"WAIT"
        | b"WAITAOF" | b"SWAPDB" | b"SCRIPT" | b"CLIENT" | b"PUBSUB" | b"LATENCY" | b"SLOWLOG"
        | b"MODULE" | b"LASTSAVE" | b"SAVE" | b"BGSAVE" | b"BGREWRITEAOF" | b"SHUTDOWN" => {
            return Place::Everywhere;
        }
        b"CONFIG" | b"FUNCTION" | b"CLUSTER" | b"ACL" => {
            let same_everywhere = word(1).is_some_and(|part| {
                SAME_EVERYWHERE
                    .iter()
                    .any(|known| part.eq_ignore_ascii_case(known.as_bytes()))
            });
            return if same_everywhere {
                Place::Anywhere
            } else {
                Place::Everywhere
            };
        }
        b"EVAL" | b"EVALSHA" | b"EVAL_RO" | b"EVALSHA_RO" | b"FCALL" | b"FCALL_RO" => {
            if word(2) == Some(b"0") {
                return Place::Anywhere;
            }
            3
        }
        b"ZUNION" | b"ZINTER" | b"ZDIFF" | b"SINTERCARD" | b"ZINTERCARD" | b"LMPOP" | b"ZMPOP"
        | b"OBJECT" | b"XINFO" | b"XGROUP" | b"MEMORY" | b"DEBUG" | b"BITOP" => 2,
        b"BLMPOP" | b"BZMPOP" => 3,
        b"XREAD" | b"XREADGROUP" => {
            let streams = |arg: Arg<&[u8]>| matches!(arg, Arg::Simple(word) if word.eq_ignore_ascii_case(b"STREAMS"));
            match command.args_iter().position(streams) {
                Some(at) => at + 1,
                None => return Place::Anywhere,
            }
        }
        _ => 1,
    };
    word(at).map_or(Place::Anywhere, |key| Place::Slot(slot(key)))
}

/// Whether it waits for the writes that went over the same link before it, and does nothing of its own.
pub(crate) fn waits(command: &Cmd) -> bool {
    let is = |name: &[u8]| matches!(command.args_iter().next(), Some(Arg::Simple(word)) if word.eq_ignore_ascii_case(name));
    is(b"WAIT") || is(b"WAITAOF")
}

/// The place of all commands of a pipeline together. What waits for the others belongs where they are.
pub(crate) fn of_pipeline(pipeline: &Pipeline) -> Place {
    let mut place = Place::Anywhere;
    let mut keyed = false;
    for command in pipeline.cmd_iter() {
        let own = match of_command(command) {
            Place::Everywhere if keyed && waits(command) => place,
            own => own,
        };
        keyed |= matches!(own, Place::Slot(_));
        place = match (place, own) {
            (_, Place::Everywhere) => return Place::Everywhere,
            (place, Place::Anywhere) => place,
            (Place::Anywhere, place) => place,
            (before, now) if before == now => now,
            _ => return Place::Several,
        };
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Cmd {
        let mut command = Cmd::new();
        text.split(' ').for_each(|word| {
            command.arg(word);
        });
        command
    }

    #[test]
    fn slots_are_those_of_the_servers() {
        // As CLUSTER KEYSLOT says.
        for (key, expected) in [
            ("foo", 12_182),
            ("{foo}bar", 12_182),
            ("123456789", 12_739),
            ("", 0),
            ("a{}b", slot(b"a{}b")),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        assert_ne!(slot(b"a{}b"), 0, "empty braces are part of the key");
    }

    #[test]
    fn the_key_of_a_command_is_where_the_server_looks_for_it() {
        let key = Place::Slot(12_182);
        for (text, place) in [
            ("GET foo", key),
            ("set foo 1", key),
            ("EVAL x 1 foo bar", key),
            ("evalsha x 0 foo", Place::Anywhere),
            ("XREAD COUNT 1 STREAMS foo 0", key),
            ("XGROUP CREATE foo g $", key),
            ("OBJECT ENCODING foo", key),
            ("BITOP AND foo {foo}a", key),
            ("LMPOP 1 foo LEFT", key),
            ("BLMPOP 1 1 foo LEFT", key),
            ("PING", Place::Anywhere),
            ("GET", Place::Anywhere),
            ("KEYS *", Place::Everywhere),
            ("flushall", Place::Everywhere),
            ("function load x", Place::Everywhere),
            ("ACL SETUSER ann on", Place::Everywhere),
            ("CONFIG SET maxmemory 1", Place::Everywhere),
            ("SCRIPT FLUSH", Place::Everywhere),
            ("CLIENT LIST", Place::Everywhere),
            ("CONFIG", Place::Everywhere),
            ("config get maxmemory", Place::Anywhere),
            ("ACL WHOAMI", Place::Anywhere),
            ("CLUSTER NODES", Place::Anywhere),
        ] {
            assert_eq!(of_command(&words(text)), place, "{text}");
        }
    }

    #[test]
    fn a_pipeline_has_to_stay_in_one_slot() {
        let of = |texts: &[&str]| {
            let mut pipeline = ::redis::pipe();
            for text in texts {
                pipeline.add_command(words(text));
            }
            of_pipeline(&pipeline)
        };
        assert_eq!(of(&["GET foo", "PING", "GET {foo}2"]), Place::Slot(12_182));
        assert_eq!(of(&["GET foo", "GET bar"]), Place::Several);
        assert_eq!(of(&["GET foo", "KEYS *"]), Place::Everywhere);
        assert_eq!(of(&["PING"]), Place::Anywhere);
        assert_eq!(of(&["SET foo 1", "wait 1 100"]), Place::Slot(12_182));
        for alone in [&["WAIT 1 100"][..], &["WAIT 1 100", "SET foo 1"]] {
            assert_eq!(of(alone), Place::Everywhere, "waits for nothing there");
        }
    }
}
