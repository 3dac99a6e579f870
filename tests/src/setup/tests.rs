use std::{env, fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use super::{find::versions, user::user_in, *};

/// A directory of this test's own, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = env::temp_dir().join(format!("ha-setup-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn program(&self, name: &str, text: &str) -> PathBuf {
        let file = self.0.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        file
    }

    fn places(&self) -> Places {
        Places {
            overrides: Vec::new(),
            path: vec![self.0.clone()],
            extra: Vec::new(),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn bare() -> Machine {
    Machine {
        apt: None,
        brew: None,
        sudo: None,
        root: false,
        terminal: false,
        macos: false,
    }
}

#[test]
fn nothing_is_installed_when_nothing_is_missing() {
    let scratch = Scratch::new("present");
    scratch.program("redis-server", "");
    let machine = Machine {
        apt: Some(scratch.program("apt-get", "exit 9")),
        root: true,
        ..bare()
    };
    let mut said = Vec::new();
    ensure_on(&[Tool::Redis], &|| scratch.places(), &machine, &mut said).unwrap();
    assert!(said.is_empty());
}

#[test]
fn without_a_package_manager_the_error_is_the_command_to_run() {
    let scratch = Scratch::new("manual");
    let error = ensure_on(
        &[Tool::Sentinel, Tool::Redis, Tool::Redis],
        &|| scratch.places(),
        &bare(),
        &mut Vec::new(),
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Redis, Redis Sentinel are missing; run: sudo apt-get update && sudo apt-get install -y redis-sentinel \
         redis-server"
    );
    assert_eq!(error.missing(), [Tool::Redis, Tool::Sentinel]);
}

#[test]
fn an_ordinary_user_without_sudo_is_told_what_to_run() {
    let scratch = Scratch::new("nosudo");
    let machine = Machine {
        apt: Some("/usr/bin/apt-get".into()),
        ..bare()
    };
    let error = ensure_on(
        &[Tool::Etcd],
        &|| scratch.places(),
        &machine,
        &mut Vec::new(),
    )
    .unwrap_err();
    assert!(matches!(error, SetupError::Manual { .. }));
    assert_eq!(
        error.command(),
        "sudo apt-get update && sudo apt-get install -y etcd-server"
    );
}

#[test]
fn a_refused_installation_names_its_status_and_the_command() {
    let scratch = Scratch::new("refused");
    let machine = Machine {
        apt: Some("/usr/bin/apt-get".into()),
        sudo: Some("/usr/bin/false".into()),
        ..bare()
    };
    let mut said = Vec::new();
    let error =
        ensure_on(&[Tool::Postgres], &|| scratch.places(), &machine, &mut said).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("PostgreSQL is missing and the installation failed with exit status: 1"),
        "{text}"
    );
    assert!(
        text.ends_with("sudo apt-get update && sudo apt-get install -y postgresql"),
        "{text}"
    );
    assert!(
        String::from_utf8(said)
            .unwrap()
            .starts_with("setup: PostgreSQL is missing, installing")
    );
}

#[test]
fn sudo_never_waits_for_a_password_nobody_can_type() {
    let machine = Machine {
        apt: Some("/usr/bin/apt-get".into()),
        sudo: Some("/usr/bin/sudo".into()),
        ..bare()
    };
    let first = |machine: &Machine| {
        machine
            .installer(&[Tool::Redis])
            .unwrap()
            .get_args()
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(first(&machine), "-n");
    assert_eq!(
        first(&Machine {
            terminal: true,
            ..machine
        }),
        "/bin/sh"
    );
}

#[test]
fn a_successful_installation_is_checked_and_reported() {
    let scratch = Scratch::new("installs");
    let looks = std::cell::Cell::new(0);
    let places = || {
        looks.set(looks.get() + 1);
        if looks.get() == 2 {
            scratch.program("redis-server", "");
        }
        scratch.places()
    };
    let machine = Machine {
        apt: Some("/usr/bin/apt-get".into()),
        sudo: Some("/usr/bin/true".into()),
        ..bare()
    };
    let mut said = Vec::new();
    ensure_on(&[Tool::Redis], &places, &machine, &mut said).unwrap();
    assert!(
        String::from_utf8(said)
            .unwrap()
            .ends_with("setup: Redis is ready\n")
    );
}

#[test]
fn an_installation_that_brings_nothing_is_an_error() {
    let scratch = Scratch::new("empty");
    let machine = Machine {
        apt: Some("/usr/bin/apt-get".into()),
        sudo: Some("/usr/bin/true".into()),
        ..bare()
    };
    let error = ensure_on(
        &[Tool::Redis],
        &|| scratch.places(),
        &machine,
        &mut Vec::new(),
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("set HA_TESTBED_REDIS_SERVER"),
        "{error}"
    );
}

#[test]
fn macos_uses_brew_and_never_sudo() {
    let machine = Machine {
        macos: true,
        brew: Some("/opt/homebrew/bin/brew".into()),
        ..bare()
    };
    let installer = machine.installer(&[Tool::Redis, Tool::Sentinel]).unwrap();
    assert_eq!(installer.get_program(), "/opt/homebrew/bin/brew");
    assert_eq!(
        installer.get_args().collect::<Vec<_>>(),
        ["install", "redis"]
    );
    assert_eq!(machine.command(&[Tool::Etcd]), "brew install etcd");
}

#[test]
fn an_override_wins_and_a_wrong_one_is_not_papered_over() {
    let scratch = Scratch::new("override");
    scratch.program("redis-server", "");
    let mine = scratch.program("mine/redis", "");
    let mut places = scratch.places();
    places.overrides = vec![(Tool::Redis, mine.clone())];
    assert_eq!(places.find(Tool::Redis), Some(mine));
    places.overrides = vec![(Tool::Redis, scratch.0.join("nowhere"))];
    assert_eq!(places.find(Tool::Redis), None);
}

#[test]
fn a_linked_postgres_is_followed_to_its_siblings() {
    let scratch = Scratch::new("link");
    let real = scratch.program("lib/15/bin/postgres", "");
    for name in ["initdb", "pg_basebackup", "pg_rewind"] {
        scratch.program(&format!("lib/15/bin/{name}"), "");
    }
    std::os::unix::fs::symlink(&real, scratch.0.join("postgres")).unwrap();
    assert_eq!(
        scratch.places().find(Tool::Postgres),
        Some(fs::canonicalize(real).unwrap())
    );
}

#[test]
fn a_postgres_without_its_tools_does_not_count() {
    let scratch = Scratch::new("lonely");
    scratch.program("postgres", "");
    scratch.program("initdb", "");
    assert_eq!(scratch.places().find(Tool::Postgres), None);
}

#[test]
fn the_newest_version_is_looked_at_first_by_number_not_by_text() {
    let scratch = Scratch::new("versions");
    for name in ["9.6", "15", "17", "common"] {
        fs::create_dir(scratch.0.join(name)).unwrap();
    }
    let names: Vec<_> = versions(&scratch.0, "")
        .iter()
        .map(|dir| dir.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["17", "15", "9.6"]);
}

#[test]
fn the_account_is_read_from_passwd_and_root_by_another_name_is_refused() {
    let passwd = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65533::/:/bin/false\npostgres:x:101:104::/var:/bin/sh\n";
    assert_eq!(
        user_in(passwd, "postgres"),
        Some(User {
            name: "postgres".into(),
            uid: 101,
            gid: 104
        })
    );
    assert_eq!(user_in(passwd, "nobody").unwrap().gid, 65533);
    assert_eq!(user_in("postgres:x:0:0::/:/bin/sh", "postgres"), None);
    assert_eq!(user_in(passwd, "daemon"), None);
}
