//! What is sent to a node that has only a part of a slot's keys so far.

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::{Cmd, Pipeline, RedisFuture, Value};

/// Says `ASKING` before each command. The two go out as one piece: the link is shared, and the word holds for the next command
/// whoever sent it.
pub(crate) struct Asking(pub(crate) MultiplexedConnection);

impl ConnectionLike for Asking {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let mut both = Pipeline::with_capacity(2);
            both.cmd("ASKING").add_command(cmd.clone());
            let answer = self.0.req_packed_commands(&both, 1, 1).await?;
            answer
                .into_iter()
                .next()
                .unwrap_or(Value::Nil)
                .extract_error()
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let mut all = Pipeline::new();
            // The word holds for all of a transaction, but only for one command outside.
            let transaction = offset > 0;
            let mut asked = 1;
            all.cmd("ASKING");
            if transaction {
                all.cmd("MULTI");
            }
            for (at, command) in pipeline.cmd_iter().enumerate() {
                if !transaction && at > 0 {
                    all.cmd("ASKING");
                    asked += 1;
                }
                all.add_command(command.clone());
            }
            if transaction {
                all.cmd("EXEC");
                return self.0.req_packed_commands(&all, offset + 1, count).await;
            }
            let answers = self.0.req_packed_commands(&all, 0, asked + count).await?;
            Ok(answers.into_iter().skip(1).step_by(2).collect())
        })
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}

/// Remembers the first command of a script's call, to find the key, and sends nothing.
#[derive(Default)]
pub(crate) struct Overheard(pub(crate) Option<Cmd>);

impl ConnectionLike for Overheard {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        self.0.get_or_insert_with(|| cmd.clone());
        Box::pin(std::future::ready(Ok(Value::Nil)))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        _: &'a Pipeline,
        _: usize,
        _: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn get_db(&self) -> i64 {
        0
    }
}
