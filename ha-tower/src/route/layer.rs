use std::sync::Arc;
use std::task::{Context, Poll};

use ha_core::config::ConfigError;
use http::{Request, request};
use tower_layer::Layer;
use tower_service::Service;

use super::{Matcher, Policy};

/// Puts the [`Policy`] of the first matcher that fits onto each request. See the [module](super).
#[derive(Clone, Debug)]
pub struct PolicyLayer {
    table: Arc<Table>,
}

#[derive(Debug)]
struct Table {
    routes: Vec<(Matcher, Policy)>,
    otherwise: Option<Policy>,
}

impl PolicyLayer {
    /// An empty table.
    pub const fn builder() -> LayerBuilder {
        LayerBuilder {
            routes: Vec::new(),
            otherwise: None,
        }
    }
}

/// Fills the table of a [`PolicyLayer`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before build()"]
pub struct LayerBuilder {
    routes: Vec<(Matcher, Policy)>,
    otherwise: Option<Policy>,
}

impl LayerBuilder {
    /// Requests that fit `matcher`, and none before it, get `policy`.
    pub fn route(mut self, matcher: Matcher, policy: Policy) -> Self {
        self.routes.push((matcher, policy));
        self
    }

    /// Requests that fit no matcher get `policy`. Default: they pass as they are.
    pub fn otherwise(mut self, policy: Policy) -> Self {
        self.otherwise = Some(policy);
        self
    }

    /// The layer.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first path that cannot fit any request: one that does not begin with `/`, or a template with
    /// braces in the wrong place.
    pub fn build(self) -> Result<PolicyLayer, ConfigError> {
        for (matcher, _) in &self.routes {
            matcher.validate()?;
        }
        let table = Arc::new(Table {
            routes: self.routes,
            otherwise: self.otherwise,
        });
        Ok(PolicyLayer { table })
    }
}

impl Table {
    fn policy(&self, head: &request::Parts) -> Option<&Policy> {
        let first = self.routes.iter().find(|(matcher, _)| matcher.fits(head));
        first.map(|(_, policy)| policy).or(self.otherwise.as_ref())
    }
}

impl<S> Layer<S> for PolicyLayer {
    type Service = PolicyService<S>;

    fn layer(&self, inner: S) -> PolicyService<S> {
        let choice = Choice::First(self.table.clone());
        PolicyService { inner, choice }
    }
}

impl<S> Layer<S> for Policy {
    type Service = PolicyService<S>;

    fn layer(&self, inner: S) -> PolicyService<S> {
        let choice = Choice::Always(self.clone());
        PolicyService { inner, choice }
    }
}

/// The service made by [`PolicyLayer`], and by a [`Policy`] that is used as a layer.
#[derive(Clone, Debug)]
pub struct PolicyService<S> {
    inner: S,
    choice: Choice,
}

#[derive(Clone, Debug)]
enum Choice {
    Always(Policy),
    First(Arc<Table>),
}

impl<S, B> Service<Request<B>> for PolicyService<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        match &self.choice {
            Choice::Always(policy) => policy.apply(request.extensions_mut()),
            Choice::First(table) => {
                let (mut head, body) = request.into_parts();
                if let Some(policy) = table.policy(&head) {
                    policy.apply(&mut head.extensions);
                }
                request = Request::from_parts(head, body);
            }
        }
        self.inner.call(request)
    }
}
