use super::Failure;

/// Reads an answer up to a limit, and looks for a text in it. Keeps only as much as the text may span.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    wanted: Option<&'a [u8]>,
    tail: Vec<u8>,
    limit: usize,
    left: usize,
}

impl<'a> Reading<'a> {
    pub(super) fn new(wanted: Option<&'a [u8]>, limit: usize) -> Self {
        Self {
            wanted,
            tail: Vec::new(),
            limit,
            left: limit,
        }
    }

    /// Takes the next piece, and says whether the text was found: then no more needs to be read.
    pub(super) fn feed(&mut self, data: &[u8]) -> Result<bool, Failure> {
        let taken = &data[..data.len().min(self.left)];
        if self.finds(taken) {
            return Ok(true);
        }
        if taken.len() < data.len() {
            return Err(Failure::TooLong { limit: self.limit });
        }
        self.left -= taken.len();
        Ok(false)
    }

    fn finds(&mut self, data: &[u8]) -> bool {
        let Some(wanted) = self.wanted else {
            return false;
        };
        self.tail.extend_from_slice(data);
        if self.tail.windows(wanted.len()).any(|part| part == wanted) {
            return true;
        }
        let beyond = self.tail.len().saturating_sub(wanted.len() - 1);
        self.tail.drain(..beyond);
        false
    }

    /// The answer has ended.
    pub(super) fn end(self) -> Result<(), Failure> {
        self.wanted
            .map_or(Ok(()), |wanted| Err(Failure::unexpected(wanted)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(wanted: Option<&str>, limit: usize, pieces: &[&str]) -> Result<(), Failure> {
        let mut reading = Reading::new(wanted.map(str::as_bytes), limit);
        for piece in pieces {
            if reading.feed(piece.as_bytes())? {
                return Ok(());
            }
        }
        reading.end()
    }

    #[test]
    fn a_text_is_found_across_pieces_and_only_within_the_limit() {
        for (wanted, limit, pieces, expected) in [
            (None, 4, &["ab", "cd"][..], None),
            (
                None,
                4,
                &["ab", "cde"],
                Some("the answer has more than 4 bytes"),
            ),
            (Some("ok"), 8, &["xo", "kx"], None),
            (
                Some("ok"),
                8,
                &["o", "", "k", "and much more than that"],
                None,
            ),
            (Some("ok"), 8, &["not ok and much more"], None),
            (
                Some("ok"),
                4,
                &["not ok"],
                Some("the answer has more than 4 bytes"),
            ),
            (
                Some("ok"),
                8,
                &["o", "ops"],
                Some("the answer does not contain \"ok\""),
            ),
            (
                Some("ok"),
                8,
                &[],
                Some("the answer does not contain \"ok\""),
            ),
        ] {
            let error = read(wanted, limit, pieces)
                .err()
                .map(|failure| failure.to_string());
            assert_eq!(error.as_deref(), expected, "{wanted:?} {limit} {pieces:?}");
        }
    }

    #[test]
    fn how_the_answer_is_cut_makes_no_difference() {
        let text = "aabaabbab";
        for wanted in ["a", "abb", "aabb", "bbb", "aabaabbab"] {
            for (first, second) in
                (0..=text.len()).flat_map(|i| (i..=text.len()).map(move |j| (i, j)))
            {
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                let found = read(Some(wanted), 9, &pieces).is_ok();
                assert_eq!(found, text.contains(wanted), "{wanted} in {pieces:?}");
            }
        }
    }
}
