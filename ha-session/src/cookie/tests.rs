use bytes::Bytes;
use ha_core::sign::Key;

use super::*;

fn keys(byte: u8) -> KeyRing {
    Key::from_bytes(&[byte; 32]).unwrap().into()
}

fn presented() -> Presented {
    Presented {
        id: SessionId::from_bytes([9; ID_LEN]),
        floor: Version::new(42),
    }
}

fn request(text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(COOKIE, HeaderValue::try_from(text).unwrap());
    headers
}

#[test]
fn the_cookie_has_the_host_prefix_and_what_the_prefix_demands() {
    let cookies = Cookies::new(keys(1));
    let header = cookies
        .set(presented(), Duration::from_secs(60))
        .unwrap()
        .unwrap();
    let text = header.to_str().unwrap();
    assert!(text.starts_with("__Host-id="), "{text}");
    for part in [
        "; Secure",
        "; HttpOnly",
        "; SameSite=Lax",
        "; Path=/",
        "; Max-Age=60",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("Domain"), "{text}");
}

#[test]
fn a_cookie_comes_back_as_it_was_sent() {
    let cookies = Cookies::new(keys(1));
    let text = format!("a=b; __Host-id={}", cookies.encode(presented()).unwrap());
    assert_eq!(cookies.read(&request(&text)), Some(presented()));
}

#[test]
fn an_old_key_still_reads_and_an_unknown_key_does_not() {
    let old = Cookies::new(keys(1));
    let text = format!("__Host-id={}", old.encode(presented()).unwrap());
    let both = KeyRing::new(
        Key::from_bytes(&[2; 32]).unwrap(),
        [Key::from_bytes(&[1; 32]).unwrap()],
    );
    assert_eq!(Cookies::new(both).read(&request(&text)), Some(presented()));
    assert_eq!(Cookies::new(keys(2)).read(&request(&text)), None);
}

#[test]
fn garbage_is_no_cookie() {
    let cookies = Cookies::new(keys(1));
    let good = cookies.encode(presented()).unwrap();
    let mut flipped = good.clone().into_bytes();
    flipped[20] ^= 1;
    let flipped = String::from_utf8(flipped).unwrap();
    for value in [
        "",
        "=",
        "%00",
        "AAAA",
        &good[..40],
        &flipped,
        &format!("{good}AAAA"),
    ] {
        assert_eq!(
            cookies.read(&request(&format!("__Host-id={value}"))),
            None,
            "{value}"
        );
    }
    let mut raw = HeaderMap::new();
    raw.insert(
        COOKIE,
        HeaderValue::from_bytes(b"__Host-id=\xff\xfe").unwrap(),
    );
    assert_eq!(cookies.read(&raw), None);
}

#[test]
fn a_planted_cookie_of_the_same_name_does_not_hide_the_real_one() {
    let cookies = Cookies::new(keys(1));
    let text = format!(
        "__Host-id=planted; __Host-id={}",
        cookies.encode(presented()).unwrap()
    );
    assert_eq!(cookies.read(&request(&text)), Some(presented()));
}

#[test]
fn a_neighbours_cookie_that_is_not_ascii_does_not_hide_ours() {
    let cookies = Cookies::new(keys(1));
    let text = cookies.encode(presented()).unwrap();
    let mut headers = HeaderMap::new();
    let bytes = [b"town=K\xf6ln; __Host-id=", text.as_bytes(), b" ; x"].concat();
    headers.insert(COOKIE, HeaderValue::from_bytes(&bytes).unwrap());
    assert_eq!(cookies.read(&headers), Some(presented()));
}

#[test]
fn an_encrypted_cookie_shows_nothing_and_both_kinds_are_read() {
    let signed = Cookies::new(keys(1));
    let config = CookieConfig::default().protection(Protection::Encrypted);
    let encrypted = Cookies::new(keys(1)).configured(config).unwrap();
    let text = encrypted.encode(presented()).unwrap();
    assert_ne!(
        text,
        encrypted.encode(presented()).unwrap(),
        "another nonce"
    );
    let shown = |text: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
        bytes.windows(ID_LEN).any(|part| part == [9; ID_LEN])
    };
    assert!(!shown(&text));
    assert!(shown(&signed.encode(presented()).unwrap()), "the control");
    for cookies in [&signed, &encrypted] {
        for text in [&text, &signed.encode(presented()).unwrap()] {
            assert_eq!(cookies.decode(text), Some(presented()));
        }
    }
    let other = Cookies::new(keys(2));
    assert_eq!(other.decode(&text), None);
    let rotated = KeyRing::new(
        Key::from_bytes(&[2; 32]).unwrap(),
        [Key::from_bytes(&[1; 32]).unwrap()],
    );
    assert_eq!(Cookies::new(rotated).decode(&text), Some(presented()));
}

#[test]
fn every_single_flipped_bit_is_no_cookie() {
    for protection in [Protection::Signed, Protection::Encrypted] {
        let config = CookieConfig::default().protection(protection);
        let cookies = Cookies::new(keys(1)).configured(config).unwrap();
        let bytes = URL_SAFE_NO_PAD
            .decode(cookies.encode(presented()).unwrap())
            .unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                cookies.decode(&URL_SAFE_NO_PAD.encode(bytes)),
                None,
                "{bit}"
            );
        }
    }
}

#[test]
fn the_cookie_of_another_app_with_the_same_keys_is_no_cookie() {
    for protection in [Protection::Signed, Protection::Encrypted] {
        let config = |name| CookieConfig::new(name).protection(protection);
        let shop = Cookies::new(keys(1)).configured(config("shop")).unwrap();
        let admin = Cookies::new(keys(1)).configured(config("admin")).unwrap();
        let text = shop.encode(presented()).unwrap();
        assert_eq!(shop.decode(&text), Some(presented()));
        assert_eq!(admin.decode(&text), None);
    }
}

fn ticket() -> Ticket {
    Ticket {
        issued_ms: 1_000_000,
        values: [("user".to_owned(), Bytes::from_static(b"ann"))].into(),
    }
}

#[test]
fn a_ticket_is_good_for_its_session_alone() {
    let cookies = Cookies::new(keys(1));
    let id = presented().id;
    let header = cookies
        .set_ticket(id, &ticket(), Duration::from_secs(60))
        .unwrap()
        .unwrap();
    let text = header.to_str().unwrap();
    assert!(text.starts_with("__Host-id-ticket=") && text.contains("Max-Age=60"));
    let text = text.split(['=', ';']).nth(1).unwrap();
    assert_eq!(cookies.open_ticket(id, text), Some(ticket()));
    let other = SessionId::from_bytes([8; ID_LEN]);
    assert_eq!(cookies.open_ticket(other, text), None);
    assert_eq!(Cookies::new(keys(2)).open_ticket(id, text), None);
    assert_eq!(cookies.decode(text), None, "a ticket is no session cookie");
}

#[test]
fn a_ticket_ends_with_its_lifetime_and_never_begins_far_in_the_future() {
    let minute = Duration::from_secs(60);
    for (now_ms, valid) in [
        (1_000_000, true),
        (1_059_999, true),
        (1_060_000, false),
        (940_000, true),
        (939_999, false),
        (0, false),
        (u64::MAX, false),
    ] {
        assert_eq!(ticket().is_valid(minute, now_ms), valid, "{now_ms}");
    }
}

#[test]
fn a_ticket_too_large_for_a_cookie_is_not_issued() {
    let big = |len| Ticket {
        values: [("a".to_owned(), Bytes::from(vec![1; len]))].into(),
        ..ticket()
    };
    let cookies = Cookies::new(keys(1));
    for (len, fits) in [(0, true), (2_000, true), (3_000, false), (70_000, false)] {
        let header = cookies.set_ticket(presented().id, &big(len), Duration::from_secs(60));
        assert_eq!(header.unwrap().is_some(), fits, "{len}");
    }
}

#[test]
fn a_cut_or_lengthened_ticket_is_none() {
    let none = Ticket {
        values: [].into(),
        ..ticket()
    };
    let plain = [&[1][..], &1_000_000u64.to_be_bytes()].concat();
    assert_eq!(Ticket::parse(&plain), Some(none));
    let full = [&plain[..], b"\0\x04user\0\x03ann"].concat();
    assert_eq!(Ticket::parse(&full), Some(ticket()));
    for len in (0..full.len()).filter(|len| *len != plain.len()) {
        assert_eq!(Ticket::parse(&full[..len]), None, "{len}");
    }
    assert_eq!(Ticket::parse(&[&full[..], b"x"].concat()), None);
    assert_eq!(
        Ticket::parse(&[&[9], &full[1..]].concat()),
        None,
        "a future format"
    );
    assert_eq!(
        Ticket::parse(&[&plain[..], b"\0\x01\xff\0\0"].concat()),
        None,
        "not UTF-8"
    );
}

#[test]
fn what_a_browser_would_drop_is_refused_by_name_and_value() {
    let new = || CookieConfig::new("sid");
    for (config, parts) in [
        (
            new().domain("a.example"),
            ["__Host-sid", "no Domain", "a.example"],
        ),
        (new().path("/shop"), ["__Host-sid", "Path=/", "/shop"]),
        (
            new().secure(false),
            ["__Host-sid", "Secure", "secure(false)"],
        ),
        (
            new().prefix(Prefix::Secure).secure(false),
            ["__Secure-sid", "Secure", "secure(false)"],
        ),
        (
            new()
                .prefix(Prefix::None)
                .secure(false)
                .same_site(SameSite::None),
            ["sid", "Secure", "SameSite=None"],
        ),
        (
            new().prefix(Prefix::None).secure(false).partitioned(true),
            ["sid", "Secure", "Partitioned"],
        ),
        (
            new().prefix(Prefix::None).domain(".a"),
            ["domain", "\".a\"", ""],
        ),
        (
            new().prefix(Prefix::None).domain("a;b"),
            ["domain", "a;b", ""],
        ),
        (
            new().prefix(Prefix::None).path("shop"),
            ["path", "shop", ""],
        ),
        (
            new().prefix(Prefix::None).path("/a;b"),
            ["path", "/a;b", ""],
        ),
        (CookieConfig::new(""), ["name", "\"\"", ""]),
        (CookieConfig::new("__Host-x"), ["name", "__Host-x", ""]),
        (CookieConfig::new("__hOST-x"), ["name", "__hOST-x", ""]),
        (CookieConfig::new("a b"), ["name", "a b", ""]),
        (CookieConfig::new("a=b"), ["name", "a=b", ""]),
        (CookieConfig::new("a;b"), ["name", "a;b", ""]),
    ] {
        let error = Cookies::new(keys(1))
            .configured(config.clone())
            .unwrap_err();
        let text = error.to_string();
        assert!(
            parts.iter().all(|part| text.contains(part)),
            "{config:?}: {text}"
        );
    }
}

#[test]
fn every_attribute_is_sent_as_it_was_set() {
    let sent = |config: CookieConfig| {
        let cookies = Cookies::new(keys(1)).configured(config).unwrap();
        let set = cookies.set(presented(), Duration::from_secs(60)).unwrap();
        let clear = cookies.clear().unwrap();
        let attributes = |header: HeaderValue| {
            let text = header.to_str().unwrap().to_owned();
            let (name, rest) = text.split_once('=').unwrap();
            let rest = rest.split_once(';').unwrap().1;
            format!("{name};{rest}")
        };
        (attributes(set.unwrap()), attributes(clear))
    };
    let (set, clear) = sent(
        CookieConfig::new("sid")
            .prefix(Prefix::Secure)
            .domain("a.example")
            .path("/shop")
            .http_only(false)
            .same_site(SameSite::None)
            .partitioned(true),
    );
    for part in [
        "__Secure-sid;",
        "; Domain=a.example",
        "; Path=/shop",
        "; SameSite=None",
        "; Secure",
        "; Partitioned",
    ] {
        assert!(
            set.contains(part) && clear.contains(part),
            "{part}: {set} | {clear}"
        );
    }
    assert!(
        !set.contains("HttpOnly") && set.contains("; Max-Age=60"),
        "{set}"
    );
    assert!(clear.contains("; Max-Age=0"), "{clear}");
    let (set, _) = sent(
        CookieConfig::default()
            .lifetime(Lifetime::Browser)
            .same_site(SameSite::Strict),
    );
    assert!(
        set.contains("SameSite=Strict") && !set.contains("Max-Age"),
        "{set}"
    );
}

#[test]
fn plain_http_needs_the_explicit_choice() {
    let config = CookieConfig::new("cart").same_site(SameSite::None);
    let cookies = Cookies::new(keys(1)).configured(config).unwrap();
    assert_eq!(cookies.name(), "__Host-cart");
    let header = cookies.insecure().set(presented(), Duration::ZERO).unwrap();
    let header = header.unwrap();
    let text = header.to_str().unwrap();
    assert!(
        text.starts_with("cart=") && !text.contains("Secure") && text.contains("SameSite=Lax"),
        "{text}"
    );
}

#[test]
fn the_version_is_a_cookie_of_its_own_and_holds_for_one_id_only() {
    let cookies = Cookies::new(keys(1));
    let newer = |id: u8| Presented {
        id: SessionId::from_bytes([id; ID_LEN]),
        floor: Version::new(43),
    };
    let told = |presented| {
        let header = cookies.set_version(presented, Duration::from_secs(60));
        let text = header.unwrap().to_str().unwrap().to_owned();
        text.split(';').next().unwrap().to_owned()
    };
    let id = format!("__Host-id={}", cookies.encode(presented()).unwrap());
    let (own, other) = (told(newer(9)), told(newer(8)));
    assert!(own.starts_with("__Host-id-v="), "{own}");
    let floor = |text: &str| cookies.read(&request(text)).unwrap().floor.get();
    assert_eq!(floor(&id), 42);
    assert_eq!(floor(&format!("{id}; {own}")), 43);
    assert_eq!(floor(&format!("{id}; {other}")), 42, "of another session");
    assert_eq!(floor(&format!("{id}; {other}; {own}")), 43);
    let forged = own.replace("__Host-id-v=AAAA", "__Host-id-v=AAAB");
    assert_ne!(own, forged);
    assert_eq!(floor(&format!("{id}; {forged}")), 42);
    for bad in ["__Host-id-v=", "__Host-id-v=!", "__Host-id-v=AAAA"] {
        assert_eq!(floor(&format!("{id}; {bad}")), 42, "{bad}");
    }
    assert_eq!(cookies.read(&request(&own)), None, "nothing by itself");
}
