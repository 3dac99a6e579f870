use super::Problem;

/// A value with its place, the same for both formats.
#[derive(Debug, PartialEq)]
pub(super) struct Node {
    /// The offset of its first byte.
    pub(super) at: usize,
    pub(super) value: Value,
}

#[derive(Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Whole(i128),
    /// A number that is not whole, or beyond all bounds.
    Number(String),
    List(Vec<Node>),
    Map(Vec<Field>),
    Other(&'static str),
}

#[derive(Debug, PartialEq)]
pub(super) struct Field {
    pub(super) name: String,
    /// The offset of the name where the format tells it, else that of the value.
    pub(super) at: usize,
    pub(super) value: Node,
}

impl Value {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Whole(_) | Self::Number(_) => "a number",
            Self::List(_) => "a list",
            Self::Map(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

/// What is wrong, and at which offset.
pub(super) type Refused = (usize, Problem);
