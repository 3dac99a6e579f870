use std::collections::{BTreeMap, BTreeSet, HashSet};

use ha_core::endpoint::{Address, Endpoint, Locality, Weight};

use super::Problem;
use super::tree::{Field, Node, Refused, Value};
use crate::discover::set::is_spoken;

/// The endpoints of a file, each field checked.
pub(super) fn endpoints(root: &Node) -> Result<Vec<Endpoint>, Refused> {
    let mut root = Table::of(root, "the file")?.at_root();
    let localities = root.take("localities").map(localities).transpose()?;
    let list = root.need("endpoints")?;
    root.end()?;
    let nodes = items(list, "endpoints")?;
    if nodes.is_empty() {
        return Err((list.at, Problem::Empty));
    }
    let mut endpoints = Vec::with_capacity(nodes.len());
    let mut keys = HashSet::new();
    for (index, node) in nodes.iter().enumerate() {
        let field = format!("endpoints[{index}]");
        let endpoint = endpoint(node, &field, localities.as_ref())?;
        if !keys.insert(endpoint.key.clone()) {
            let key = endpoint.key;
            return Err((node.at, Problem::Repeated { field, key }));
        }
        endpoints.push(endpoint);
    }
    Ok(endpoints)
}

/// The zones of each region.
type Localities = BTreeMap<String, BTreeSet<String>>;

fn localities(node: &Node) -> Result<Localities, Refused> {
    let table = Table::of(node, "localities")?;
    let regions = table.fields.into_iter().map(|field| {
        let path = format!("localities.{}", field.name);
        let zones = items(&field.value, &path)?.iter().enumerate();
        let zones = zones.map(|(i, zone)| Ok(text(zone, &format!("{path}[{i}]"))?.to_owned()));
        Ok((field.name.clone(), zones.collect::<Result<_, _>>()?))
    });
    regions.collect()
}

fn endpoint(node: &Node, path: &str, known: Option<&Localities>) -> Result<Endpoint, Refused> {
    let mut table = Table::of(node, path)?;
    let address = table.need("address")?;
    let mut endpoint = Endpoint::new(self::address(address, &table.path("address"))?);
    if let Some(key) = table.take("key") {
        endpoint.key = filled(key, &table.path("key"))?.into();
    }
    if let Some(weight) = table.take("weight") {
        let weight = number(weight, &table.path("weight"), Weight::MAX.value())?;
        endpoint.weight = Weight::new(weight).unwrap_or(Weight::MAX);
    }
    if let Some(priority) = table.take("priority") {
        let priority = number(priority, &table.path("priority"), u8::MAX.into())?;
        endpoint.priority = u8::try_from(priority).unwrap_or(u8::MAX);
    }
    if let Some(node) = table.take("locality") {
        endpoint.locality = locality(node, &table.path("locality"), known)?;
    }
    if let Some(metadata) = table.take("metadata") {
        endpoint.metadata = texts(metadata, &table.path("metadata"))?;
    }
    table.end()?;
    Ok(endpoint)
}

fn address(node: &Node, field: &str) -> Result<Address, Refused> {
    let refused = |problem| (node.at, problem);
    let field = field.to_owned();
    let address: Address = match text(node, &field)?.parse() {
        Ok(address) => address,
        Err(source) => return Err(refused(Problem::Address { field, source })),
    };
    if !is_spoken(&address) {
        let scheme = address.scheme().to_owned();
        return Err(refused(Problem::Scheme { field, scheme }));
    }
    Ok(address)
}

fn locality(node: &Node, path: &str, known: Option<&Localities>) -> Result<Locality, Refused> {
    let mut table = Table::of(node, path)?;
    let region_node = table.need("region")?;
    let zone_node = table.take("zone");
    let (region_field, zone_field) = (table.path("region"), table.path("zone"));
    table.end()?;
    let region = filled(region_node, &region_field)?;
    let zone = zone_node
        .map(|zone| filled(zone, &zone_field))
        .transpose()?;
    if let Some(known) = known {
        let unknown = |at, field, value: &str| {
            let value = value.to_owned();
            (at, Problem::UnknownLocality { field, value })
        };
        let Some(zones) = known.get(region) else {
            return Err(unknown(region_node.at, region_field, region));
        };
        if let (Some(zone), Some(node)) = (zone, zone_node)
            && !zones.contains(zone)
        {
            return Err(unknown(node.at, zone_field, zone));
        }
    }
    Ok(Locality {
        region: region.into(),
        zone: zone.unwrap_or_default().into(),
    })
}

fn texts(node: &Node, path: &str) -> Result<BTreeMap<String, String>, Refused> {
    let table = Table::of(node, path)?;
    let entries = table.fields.iter().map(|field| {
        let value = text(&field.value, &table.path(&field.name))?;
        Ok((field.name.clone(), value.to_owned()))
    });
    entries.collect()
}

fn kind(node: &Node, field: &str, expected: &'static str) -> Refused {
    let problem = Problem::Kind {
        field: field.to_owned(),
        found: node.value.kind(),
        expected,
    };
    (node.at, problem)
}

fn items<'a>(node: &'a Node, field: &str) -> Result<&'a [Node], Refused> {
    match &node.value {
        Value::List(nodes) => Ok(nodes),
        _ => Err(kind(node, field, "a list")),
    }
}

fn text<'a>(node: &'a Node, field: &str) -> Result<&'a str, Refused> {
    match &node.value {
        Value::Text(text) => Ok(text),
        _ => Err(kind(node, field, "a text")),
    }
}

fn filled<'a>(node: &'a Node, field: &str) -> Result<&'a str, Refused> {
    match text(node, field)? {
        "" => {
            let field = field.to_owned();
            Err((node.at, Problem::Blank { field }))
        }
        text => Ok(text),
    }
}

fn number(node: &Node, field: &str, max: u32) -> Result<u32, Refused> {
    let value = match &node.value {
        Value::Whole(whole) => match u32::try_from(*whole) {
            Ok(number) if number <= max => return Ok(number),
            _ => whole.to_string(),
        },
        Value::Number(number) => number.clone(),
        _ => return Err(kind(node, field, "a number")),
    };
    let field = field.to_owned();
    Err((node.at, Problem::Range { field, value, max }))
}

/// A table whose fields are taken one by one. What is left at the end is unknown.
struct Table<'a> {
    at: usize,
    path: String,
    fields: Vec<&'a Field>,
}

impl<'a> Table<'a> {
    fn of(node: &'a Node, path: &str) -> Result<Self, Refused> {
        let Value::Map(fields) = &node.value else {
            return Err(kind(node, path, "a table"));
        };
        let table = Self {
            at: node.at,
            path: path.to_owned(),
            fields: fields.iter().collect(),
        };
        let mut names = HashSet::new();
        match fields.iter().find(|field| !names.insert(&field.name)) {
            Some(twice) => {
                let field = table.path(&twice.name);
                Err((twice.at, Problem::Twice { field }))
            }
            None => Ok(table),
        }
    }

    /// Fields at the root go by their bare names.
    fn at_root(mut self) -> Self {
        self.path.clear();
        self
    }

    fn path(&self, name: &str) -> String {
        match &*self.path {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        }
    }

    fn take(&mut self, name: &str) -> Option<&'a Node> {
        let index = self.fields.iter().position(|field| field.name == name)?;
        Some(&self.fields.swap_remove(index).value)
    }

    fn need(&mut self, name: &str) -> Result<&'a Node, Refused> {
        let field = self.path(name);
        let missing = (self.at, Problem::Missing { field });
        self.take(name).ok_or(missing)
    }

    fn end(&self) -> Result<(), Refused> {
        // In the order of the file, whatever order they were taken in.
        match self.fields.iter().min_by_key(|field| field.at) {
            Some(unknown) => {
                let field = self.path(&unknown.name);
                Err((unknown.at, Problem::Unknown { field }))
            }
            None => Ok(()),
        }
    }
}
