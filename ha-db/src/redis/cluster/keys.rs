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

/// The place of one command.
pub(crate) fn of_command(command: &Cmd) -> Place {
    let word = |at: usize| match command.args_iter().nth(at) {
        Some(Arg::Simple(bytes)) => Some(bytes),
        _ => None,
    };
    let name = word(0).unwrap_or_default().to_ascii_uppercase();
    let at = match name.as_slice() {
        b"KEYS" | b"SCAN" | b"DBSIZE" | b"FLUSHALL" | b"FLUSHDB" | b"RANDOMKEY" | b"WAIT"
        | b"WAITAOF" | b"SWAPDB" => return Place::Everywhere,
        b"PING" | b"ECHO" | b"TIME" | b"INFO" | b"COMMAND" | b"CONFIG" | b"SCRIPT"
        | b"FUNCTION" | b"CLIENT" | b"CLUSTER" | b"ROLE" | b"ACL" | b"LATENCY" | b"SLOWLOG"
        | b"MODULE" | b"PUBLISH" | b"PUBSUB" | b"LASTSAVE" | b"SAVE" | b"BGSAVE"
        | b"BGREWRITEAOF" | b"LOLWUT" => return Place::Anywhere,
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

/// The place of all commands of a pipeline together.
pub(crate) fn of_pipeline(pipeline: &Pipeline) -> Place {
    let mut place = Place::Anywhere;
    for command in pipeline.cmd_iter() {
        place = match (place, of_command(command)) {
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
    }
}
