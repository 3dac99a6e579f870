use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// So many pieces in a row are looked at together.
const RUN: usize = 128;
/// Pieces that are smaller than this on average are put together: each costs a handle, and may hold a larger buffer.
const SMALL: usize = 512;

/// Bytes that are kept as they came, unless they came in crumbs.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    all: Vec<Bytes>,
    /// How many at the end were not looked at yet.
    loose: usize,
}

impl Pieces {
    pub(crate) fn push(&mut self, piece: Bytes) {
        self.all.push(piece);
        self.loose += 1;
        if self.loose < RUN {
            return;
        }
        self.loose = 0;
        let run = self.all.len() - RUN;
        let bytes = self.all[run..].iter().map(Bytes::len).sum();
        if bytes < RUN * SMALL {
            let mut together = BytesMut::with_capacity(bytes);
            for piece in self.all.drain(run..) {
                together.extend_from_slice(&piece);
            }
            self.all.push(together.freeze());
        }
    }

    pub(crate) fn as_slice(&self) -> &[Bytes] {
        &self.all
    }
}

impl From<Pieces> for VecDeque<Bytes> {
    fn from(pieces: Pieces) -> Self {
        pieces.all.into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn crumbs_are_put_together_and_large_pieces_are_not_copied() {
        let mut crumbs = Pieces::default();
        for _ in 0..64 * 1024 {
            crumbs.push(Bytes::from_static(b"x"));
        }
        assert_eq!(crumbs.as_slice().len(), 64 * 1024 / RUN);

        let (mut large, piece) = (Pieces::default(), Bytes::from(vec![0; 16 * 1024]));
        for _ in 0..2 * RUN {
            large.push(piece.clone());
        }
        let same = |kept: &Bytes| kept.as_ptr() == piece.as_ptr();
        assert!(large.as_slice().iter().all(same));
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_or_moved(sizes in prop::collection::vec(1usize..2_000, 0..400)) {
            let (mut pieces, mut expected) = (Pieces::default(), Vec::new());
            for (at, size) in sizes.into_iter().enumerate() {
                let piece = vec![u8::try_from(at % 251).unwrap(); size];
                expected.extend_from_slice(&piece);
                pieces.push(piece.into());
            }
            prop_assert_eq!(pieces.as_slice().concat(), expected);
        }
    }
}
