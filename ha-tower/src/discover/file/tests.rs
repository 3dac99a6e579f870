use super::*;

fn refused(name: &str, text: &str) -> (usize, usize, Problem) {
    let file = File::unread(name).unwrap();
    let path = Path::new(name);
    match file.format.endpoints(path, text.as_bytes()) {
        Err(FileError::Refused {
            line,
            column,
            source,
            ..
        }) => (line, column, source),
        other => panic!("{text}: {other:?}"),
    }
}

#[track_caller]
fn assert_refused(name: &str, text: &str, place: (usize, usize), message: &str) {
    let (line, column, problem) = refused(name, text);
    assert!(problem.to_string().contains(message), "{text}: {problem}");
    assert_eq!((line, column), place, "{text}: {problem}");
}

const FULL_TOML: &str = r#"
[localities]
eu-west = ["a", "b"]

[[endpoints]]
address = "http://10.0.0.1:3000"
key = "one"
weight = 0
priority = 2
locality = { region = "eu-west", zone = "b" }
metadata = { version = "7" }

[[endpoints]]
address = "http://app"
"#;

const FULL_JSON: &str = r#"{
  "localities": { "eu-west": ["a", "b"] },
  "endpoints": [
    { "address": "http://10.0.0.1:3000", "key": "one", "weight": 0, "priority": 2,
      "locality": { "region": "eu-west", "zone": "b" }, "metadata": { "version": "7" } },
    { "address": "http://app" }
  ]
}"#;

#[test]
fn both_formats_tell_every_field_and_the_rest_has_defaults() {
    for (format, text) in [(Format::Toml, FULL_TOML), (Format::Json, FULL_JSON)] {
        let endpoints = format.endpoints(Path::new("x"), text.as_bytes()).unwrap();
        let one = &endpoints[0];
        assert_eq!(one.key.as_str(), "one");
        assert_eq!(one.address.to_string(), "http://10.0.0.1:3000");
        assert_eq!((one.weight.value(), one.priority), (0, 2));
        assert_eq!(
            (&*one.locality.region, &*one.locality.zone),
            ("eu-west", "b")
        );
        assert_eq!(one.metadata["version"], "7");
        assert_eq!(endpoints[1], "http://app".parse().unwrap());
    }
}

#[test]
fn what_is_wrong_is_told_by_line_column_field_and_value() {
    let head = "[[endpoints]]\naddress = \"http://a\"\n";
    for (text, line, column, message) in [
        ("", 1, 1, "endpoints is missing"),
        ("endpoints = []", 1, 13, "endpoints is empty"),
        (
            "endpoints = 1",
            1,
            13,
            "endpoints is a number, it must be a list",
        ),
        ("[[endpoints]]\n[[endpoints", 2, 12, "it is not toml"),
        (
            "[[endpoints]]\nweight = 1",
            1,
            1,
            "endpoints[0].address is missing",
        ),
        (
            "[[endpoints]]\naddress = \"10.0.0.1\"",
            2,
            11,
            "endpoints[0].address is refused",
        ),
        (
            "[[endpoints]]\naddress = \"https://a\"",
            2,
            11,
            "scheme \"https\"",
        ),
        (
            &format!("{head}weight = -1"),
            3,
            10,
            "endpoints[0].weight is -1",
        ),
        (
            &format!("{head}weight = 1000001"),
            3,
            10,
            "from 0 to 1000000",
        ),
        (
            &format!("{head}weight = 0.5"),
            3,
            10,
            "endpoints[0].weight is 0.5",
        ),
        (
            &format!("{head}weight = nan"),
            3,
            10,
            "endpoints[0].weight is nan",
        ),
        (
            &format!("{head}weight = \"1\""),
            3,
            10,
            "is a text, it must be a number",
        ),
        (
            &format!("{head}priority = 256"),
            3,
            12,
            "endpoints[0].priority is 256",
        ),
        (
            &format!("{head}wieght = 1"),
            3,
            1,
            "endpoints[0].wieght is not a field",
        ),
        (
            &format!("{head}key = \"\""),
            3,
            7,
            "endpoints[0].key is empty",
        ),
        (
            &format!("{head}locality.zone = \"a\""),
            3,
            1,
            "endpoints[0].locality.region is missing",
        ),
        (
            &format!("{head}metadata = {{ a = 1 }}"),
            3,
            18,
            "endpoints[0].metadata.a is a number",
        ),
        (
            &format!("{head}{head}"),
            3,
            1,
            "endpoints[1] repeats the key a:80",
        ),
        (
            &format!("localities = {{ eu = [\"a\"] }}\n{head}locality.region = \"us\""),
            4,
            19,
            "region is \"us\"",
        ),
        (
            &format!(
                "localities = {{ eu = [\"a\"] }}\n{head}locality = {{ region = \"eu\", zone = \"b\" }}"
            ),
            4,
            36,
            "zone is \"b\"",
        ),
    ] {
        assert_refused("x.toml", text, (line, column), message);
    }
}

#[test]
fn json_is_told_as_exactly() {
    for (text, line, column, message) in [
        ("", 1, 1, "it is not json: EOF"),
        ("[]", 1, 1, "the file is a list, it must be a table"),
        ("{\n  \"endpoints\": [\n    {]\n", 3, 6, "it is not json"),
        ("{\"endpoints\": []}", 1, 15, "endpoints is empty"),
        (
            "{\"endpoints\": [\n  {\"address\": \"http://a\",\n   \"weight\": 1e3}\n]}",
            3,
            14,
            "weight is 1e3",
        ),
        (
            "{\"endpoints\": [{\"address\": \"http://a\", \"x\": null}]}",
            1,
            45,
            "endpoints[0].x",
        ),
        (
            "{\"endpoints\": [{\"address\": \"http://a\", \"key\": \"a\", \"key\": \"b\"}]}",
            1,
            59,
            "endpoints[0].key is given twice",
        ),
        (
            "{\"endpoints\": [{\"address\": \"http://a\"},\n {\"address\": \"http://a:80\"}]}",
            2,
            2,
            "endpoints[1] repeats the key a:80",
        ),
    ] {
        assert_refused("x.json", text, (line, column), message);
    }
}

#[test]
fn nesting_without_end_is_an_error_and_no_overflow() {
    let text = format!(
        "{{\"endpoints\": {}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let (.., problem) = refused("x.json", &text);
    assert!(matches!(problem, Problem::Kind { .. }), "{problem}");
    let text = format!("endpoints = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    let (.., problem) = refused("x.toml", &text);
    assert!(matches!(problem, Problem::Syntax { .. }), "{problem}");
}

#[test]
fn columns_are_characters_and_bytes_that_are_no_text_are_told() {
    let text = "[[endpoints]]\naddress = \"http://a\" # žluťoučký\nkey = 1";
    assert_eq!(refused("x.toml", text).1, 7);
    let path = Path::new("x.toml");
    let error = Format::Toml.endpoints(path, b"a = 1\n\xff").unwrap_err();
    assert_eq!(error.to_string(), "x.toml:2:1 is refused");
}

#[test]
fn a_path_must_say_which_format_it_is_and_the_interval_be_positive() {
    for name in ["endpoints", "endpoints.yaml", ".toml"] {
        let error = File::unread(name).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    let file = File::unread("a.toml").unwrap();
    let error = file.interval(Duration::ZERO).unwrap_err();
    assert!(matches!(error, FileError::Config(_)), "{error}");
    let error = file_error("/nowhere/at/all.json");
    assert!(error.contains("/nowhere/at/all.json cannot be read"));
}

#[test]
fn what_is_no_regular_file_is_refused_before_it_is_opened() {
    let dir = std::env::temp_dir().join(format!("ha-tower-file-{}.toml", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let error = file(&dir).unwrap_err();
    let inner = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(inner, "it is not a regular file");
    std::fs::remove_dir(&dir).unwrap();
}

fn file_error(path: &str) -> String {
    file(path).unwrap_err().to_string()
}
