//! The usual session store: one blob per session, read, changed and written back as a whole. The control that must fail.

use std::collections::BTreeMap;
use std::time::Duration;

use ha_db::redis::{Connection, driver};
use ha_session::{
    Change, Commit, Expiry, Gone, Load, Outcome, Record, SessionKey, Store, StoreError, Value,
    Version,
};

type Blob = BTreeMap<String, Vec<u8>>;

#[derive(Clone)]
pub(crate) struct WholeBlob {
    pub(crate) connection: Connection,
}

impl WholeBlob {
    async fn read(&self, key: SessionKey) -> Option<Blob> {
        let mut get = driver::cmd("GET");
        get.arg(format!("naive:{key}"));
        let text: Option<String> = self.connection.run(&get).await.unwrap();
        text.map(|text| serde_json::from_str(&text).unwrap())
    }
}

fn record(blob: Blob) -> Record {
    let value = |bytes: Vec<u8>| Value {
        version: Version::ZERO,
        bytes: bytes.into(),
    };
    let values = blob
        .into_iter()
        .map(|(name, bytes)| (name, value(bytes)))
        .collect();
    let hour = Duration::from_secs(3600);
    Record::new(Version::ZERO, values, hour, hour)
}

impl Store for WholeBlob {
    async fn load(&self, key: SessionKey, _: Version) -> Load {
        match self.read(key).await {
            Some(blob) => Load::Found(record(blob)),
            None => Load::Gone(Gone::MISSING),
        }
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        let mut blob = self.read(commit.key).await.unwrap_or_default();
        for (name, change) in commit.patch.iter() {
            match change {
                Change::Set(bytes) => blob.insert(name.to_owned(), bytes.to_vec()),
                Change::Remove => blob.remove(name),
            };
        }
        // A rotation copies, and the old id lives on with all that follows.
        for key in [commit.key, commit.key_after()] {
            let mut set = driver::cmd("SET");
            set.arg(format!("naive:{key}"))
                .arg(serde_json::to_string(&blob).unwrap());
            self.connection.run::<()>(&set).await.unwrap();
        }
        Ok(Outcome::Committed(record(blob)))
    }

    async fn destroy(&self, key: SessionKey) -> Result<(), StoreError> {
        let mut del = driver::cmd("DEL");
        del.arg(format!("naive:{key}"));
        self.connection.run::<()>(&del).await.unwrap();
        Ok(())
    }

    async fn touch(&self, _: SessionKey, _: Expiry) -> Result<(), StoreError> {
        Ok(())
    }
}
