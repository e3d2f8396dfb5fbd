//! What a dashboard is made of here, and its JSON for Grafana 11 or later.

use serde_json::{Value, json};

/// Of Grafana 11; later ones bring it up to date as they load it.
const SCHEMA_VERSION: u32 = 39;
/// Columns of Grafana's grid.
const COLUMNS: u64 = 24;
const HEIGHT: u64 = 8;

/// `@` in an expression: what the variables choose.
const CHOSEN: &str = r#"namespace=~"$namespace", pod=~"$pod""#;

/// A dashboard: rows of panels.
pub struct Dashboard {
    /// Behind `identity-sync-`; links and bookmarks depend on it.
    pub name: &'static str,
    pub title: &'static str,
    pub description: &'static str,
    pub rows: Vec<Row>,
}

/// A headed row.
pub struct Row {
    pub title: &'static str,
    pub panels: Vec<Panel>,
}

/// One graph.
pub struct Panel {
    kind: Kind,
    title: &'static str,
    description: &'static str,
    unit: &'static str,
    width: u64,
    /// Expressions and legends.
    queries: Vec<(String, &'static str)>,
}

enum Kind {
    Lines,
    Stacked,
    Heatmap,
    /// Red below the first number, green from the second on, yellow between.
    Stat(f64, f64),
    /// Names of states, each with its color.
    States(&'static [(&'static str, &'static str)]),
}

/// The expression of a histogram's quantile; `by` are the labels to keep, `le` among them.
pub fn quantile(quantile: f64, histogram: &str, by: &str) -> String {
    format!(
        "histogram_quantile({quantile}, sum by ({by}) (rate({histogram}_bucket{{@}}[$__rate_interval])))"
    )
}

impl Panel {
    fn new(kind: Kind, title: &'static str, unit: &'static str, description: &'static str) -> Self {
        Self {
            kind,
            title,
            description,
            unit,
            width: 8,
            queries: Vec::new(),
        }
    }

    /// Lines over time; `unit` is one of Grafana's.
    pub fn lines(title: &'static str, unit: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Lines, title, unit, description)
    }

    /// Areas upon one another: parts of a sum.
    pub fn stacked(title: &'static str, unit: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Stacked, title, unit, description)
    }

    /// The buckets of a histogram, by `le`.
    pub fn heatmap(title: &'static str, unit: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Heatmap, title, unit, description)
    }

    /// The last value: red below `bad`, green from `good` on.
    pub fn stat(
        title: &'static str,
        unit: &'static str,
        (bad, good): (f64, f64),
        description: &'static str,
    ) -> Self {
        Self::new(Kind::Stat(bad, good), title, unit, description)
    }

    /// A line of colored states for each series, whose value is the number of the state.
    pub fn states(
        title: &'static str,
        states: &'static [(&'static str, &'static str)],
        description: &'static str,
    ) -> Self {
        Self::new(Kind::States(states), title, "none", description)
    }

    /// Columns of the 24 that there are.
    pub fn width(mut self, columns: u64) -> Self {
        self.width = columns;
        self
    }

    /// Adds an expression; in it `@` stands for the matchers of the dashboard's variables.
    pub fn query(mut self, expression: impl Into<String>, legend: &'static str) -> Self {
        self.queries.push((expression.into(), legend));
        self
    }

    fn json(&self, id: u64, (x, y): (u64, u64)) -> Value {
        let (plugin, options, custom) = self.look();
        let mut defaults = json!({"unit": self.unit, "custom": custom});
        if let Kind::Stat(bad, good) = self.kind {
            defaults["decimals"] = json!(if self.unit == "percentunit" { 3 } else { 0 });
            defaults["thresholds"] = json!({"mode": "absolute", "steps": [
                {"color": "red", "value": null},
                {"color": "yellow", "value": bad},
                {"color": "green", "value": good},
            ]});
        }
        if let Kind::States(states) = self.kind {
            let named = states.iter().enumerate().map(|(value, (text, color))| {
                let state = json!({"text": text, "color": color, "index": value});
                (value.to_string(), state)
            });
            let options: serde_json::Map<String, Value> = named.collect();
            defaults["mappings"] = json!([{"type": "value", "options": options}]);
        }
        json!({
            "id": id,
            "type": plugin,
            "title": self.title,
            "description": self.description,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": HEIGHT},
            "datasource": datasource(),
            "targets": self.targets(),
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": options,
        })
    }

    fn targets(&self) -> Vec<Value> {
        let format = if matches!(self.kind, Kind::Heatmap) {
            "heatmap"
        } else {
            "time_series"
        };
        let target = |(letter, (expression, legend)): (char, &(String, &str))| {
            json!({
                "refId": letter.to_string(),
                "datasource": datasource(),
                "expr": expression.replace('@', CHOSEN),
                "legendFormat": legend,
                "format": format,
                "range": true,
                "editorMode": "code",
            })
        };
        ('A'..='Z').zip(&self.queries).map(target).collect()
    }

    /// The plugin's name, its options, and its part of the fields' configuration.
    fn look(&self) -> (&'static str, Value, Value) {
        let legend =
            json!({"showLegend": true, "displayMode": "list", "placement": "bottom", "calcs": []});
        let tooltip = json!({"mode": "multi", "sort": "desc"});
        match self.kind {
            Kind::Lines => (
                "timeseries",
                json!({"legend": legend, "tooltip": tooltip}),
                json!({"lineWidth": 1, "fillOpacity": 5, "showPoints": "never", "axisSoftMin": 0}),
            ),
            Kind::Stacked => (
                "timeseries",
                json!({"legend": legend, "tooltip": tooltip}),
                json!({"lineWidth": 1, "fillOpacity": 40, "showPoints": "never", "axisSoftMin": 0,
                       "stacking": {"mode": "normal", "group": "A"}}),
            ),
            Kind::Heatmap => (
                "heatmap",
                json!({
                    "calculate": false,
                    "color": {"mode": "scheme", "scheme": "Oranges", "fill": "dark-orange", "scale": "exponential",
                              "exponent": 0.5, "steps": 64, "reverse": false},
                    "yAxis": {"unit": self.unit, "axisPlacement": "left", "reverse": false},
                    "showValue": "never",
                    "legend": {"show": true},
                    "tooltip": {"mode": "single", "yHistogram": true, "showColorScale": true},
                    "exemplars": {"color": "rgba(255,0,255,0.7)"},
                    "cellGap": 1,
                    "filterValues": {"le": 1e-9},
                }),
                json!({"hideFrom": {"legend": false, "tooltip": false, "viz": false}}),
            ),
            Kind::Stat(..) => (
                "stat",
                json!({
                    "graphMode": "area", "colorMode": "value", "justifyMode": "auto", "textMode": "auto",
                    "wideLayout": true, "showPercentChange": false, "percentChangeColorMode": "standard",
                    "orientation": "auto",
                    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false},
                }),
                json!({}),
            ),
            Kind::States(_) => (
                "state-timeline",
                json!({"showValue": "auto", "rowHeight": 0.9, "mergeValues": true, "alignValue": "left",
                       "legend": legend, "tooltip": {"mode": "single", "sort": "none"}}),
                json!({"lineWidth": 0, "fillOpacity": 70}),
            ),
        }
    }
}

impl Dashboard {
    /// Below `observability/dashboards`.
    pub fn file_name(&self) -> String {
        format!("{}.json", self.name)
    }

    /// What Grafana imports.
    pub fn into_json(self) -> Value {
        json!({
            "uid": format!("identity-sync-{}", self.name),
            "title": format!("identity-sync / {}", self.title),
            "description": self.description,
            "tags": ["identity-sync"],
            "schemaVersion": SCHEMA_VERSION,
            "editable": true,
            "graphTooltip": 1,
            "timezone": "browser",
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "templating": {"list": variables()},
            "annotations": {"list": []},
            "links": [{
                "type": "dashboards", "title": "identity-sync", "tags": ["identity-sync"], "asDropdown": true,
                "includeVars": true, "keepTime": true, "targetBlank": false, "icon": "", "tooltip": "", "url": "",
            }],
            "panels": layout(&self.rows),
        })
    }
}

/// Panels from left to right, each row below the one before.
fn layout(rows: &[Row]) -> Vec<Value> {
    let (mut panels, mut y) = (Vec::new(), 0);
    for row in rows {
        let id = panels.len() + 1;
        panels.push(json!({
            "id": id, "type": "row", "title": row.title, "collapsed": false, "panels": [],
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
        }));
        y += 1;
        let mut x = 0;
        for panel in &row.panels {
            if x + panel.width > COLUMNS {
                (x, y) = (0, y + HEIGHT);
            }
            let id = panels.len() as u64 + 1;
            panels.push(panel.json(id, (x, y)));
            x += panel.width;
        }
        y += HEIGHT;
    }
    panels
}

fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

fn variables() -> Value {
    let of_label = |label: &str, selector: &str| {
        let query = format!("label_values(identity_build_info{selector}, {label})");
        json!({
            "name": label,
            "type": "query",
            "datasource": datasource(),
            "query": {"query": query, "refId": label, "qryType": 1},
            "definition": query,
            "refresh": 2,
            "sort": 1,
            "multi": true,
            // "All" is every value that the query gave, and not all that there is: other things have a `pod`, too.
            "includeAll": true,
            "current": {"selected": true, "text": ["All"], "value": ["$__all"]},
        })
    };
    json!([
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1},
        of_label("namespace", ""),
        of_label("pod", r#"{namespace=~"$namespace"}"#),
    ])
}
