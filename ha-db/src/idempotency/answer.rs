//! An HTTP answer as it is stored: status, headers, body.

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::error::Error;

const FORMAT: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Whether a header belongs to the answer and not to the one time it was sent, and may be given to whoever presents the
/// key.
fn is_kept(name: &HeaderName) -> bool {
    ![
        CONNECTION,
        CONTENT_LENGTH,
        DATE,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        SET_COOKIE,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ]
    .contains(name)
        && name != "keep-alive"
}

/// Status (2 bytes), number of headers (2), then each header as length (2), name, length (4), value; the body is the rest.
pub(super) fn encode(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    bytes.extend_from_slice(&status.as_u16().to_be_bytes());
    let at = bytes.len();
    bytes.extend_from_slice(&[0, 0]);
    let mut count = 0_u16;
    for (name, value) in headers.iter().filter(|(name, _)| is_kept(name)) {
        let (Ok(name_len), Ok(value_len)) = (
            u16::try_from(name.as_str().len()),
            u32::try_from(value.len()),
        ) else {
            continue;
        };
        let Some(next) = count.checked_add(1) else {
            break;
        };
        count = next;
        bytes.extend_from_slice(&name_len.to_be_bytes());
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(&value_len.to_be_bytes());
        bytes.extend_from_slice(value.as_bytes());
    }
    bytes[at..at + 2].copy_from_slice(&count.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

pub(super) fn decode(bytes: Vec<u8>) -> Result<Answer, Error> {
    let mut bytes = Bytes::from(bytes);
    read(&mut bytes).ok_or(Error::Format)
}

fn read(bytes: &mut Bytes) -> Option<Answer> {
    if take(bytes, 1)?[0] != FORMAT {
        return None;
    }
    let status = StatusCode::from_u16(number(bytes, 2)?.try_into().ok()?).ok()?;
    let mut headers = HeaderMap::new();
    for _ in 0..number(bytes, 2)? {
        let name_len = number(bytes, 2)?;
        let name = HeaderName::from_bytes(&take(bytes, name_len)?).ok()?;
        let value_len = number(bytes, 4)?;
        let value = HeaderValue::from_maybe_shared(take(bytes, value_len)?).ok()?;
        headers.append(name, value);
    }
    Some(Answer {
        status,
        headers,
        body: bytes.clone(),
    })
}

fn take(bytes: &mut Bytes, len: usize) -> Option<Bytes> {
    (len <= bytes.len()).then(|| bytes.split_to(len))
}

fn number(bytes: &mut Bytes, len: usize) -> Option<usize> {
    let number = take(bytes, len)?
        .iter()
        .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    usize::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_belongs_to_the_connection_or_to_one_client_is_not_kept() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/json"),
            ("location", "/orders/1"),
            ("x-twice", "1"),
            ("set-cookie", "session=secret"),
            ("date", "today"),
            ("content-length", "3"),
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("keep-alive", "timeout=5"),
        ] {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        headers.append("x-twice", HeaderValue::from_static("2"));
        let stored = encode(StatusCode::CREATED, &headers, b"abc");
        let answer = decode(stored).unwrap();
        assert_eq!(answer.status, StatusCode::CREATED);
        assert_eq!(answer.body, "abc");
        let kept: Vec<_> = answer.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(kept, ["content-type", "location", "x-twice"]);
        assert_eq!(answer.headers.get_all("x-twice").iter().count(), 2);
    }

    proptest! {
        #[test]
        fn answers_survive_storing(
            status in 100_u16..1000,
            names in prop::collection::vec("x-[a-z]{1,20}", 0..8),
            value in prop::collection::vec(0x20_u8..0x7f, 0..40),
            body in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let status = StatusCode::from_u16(status).unwrap();
            let mut headers = HeaderMap::new();
            for name in &names {
                headers.append(
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_bytes(&value).unwrap(),
                );
            }
            let answer = decode(encode(status, &headers, &body)).unwrap();
            prop_assert_eq!(answer, Answer { status, headers, body: body.into() });
        }

        #[test]
        fn no_stored_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut versioned = vec![FORMAT];
            versioned.extend_from_slice(&bytes);
            let _ = decode(bytes);
            let _ = decode(versioned);
        }
    }

    #[test]
    fn an_unknown_format_is_an_error() {
        let mut stored = encode(StatusCode::OK, &HeaderMap::new(), b"");
        stored[0] = FORMAT + 1;
        assert!(matches!(decode(stored), Err(Error::Format)));
        assert!(matches!(decode(Vec::new()), Err(Error::Format)));
    }
}
