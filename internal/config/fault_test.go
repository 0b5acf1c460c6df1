package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor/internal/document"
)

// Every fault, with its exact text and place.
func TestEveryFaultSaysWhereAndWhat(t *testing.T) {
	for _, c := range []struct{ name, yaml, want string }{
		// the file
		{"unknown key, near", "pollicies: []", `1:1: unknown key "pollicies" (did you mean "policies"?)`},
		{"unknown key, far", "{listen: 'localhost:1', zebra: 1}", `1:25: unknown key "zebra" (there are addresses, agents, anonymous_agent, data, hosts, listen, mcpServers, mcpServersFile, policies, roles, servers, services, session)`},
		{"a service without its address", "services: {reputation: {timeout: 1s}}", `1:24: services.reputation: url is missing`},
		{"a drift service without its address", "services: {drift: {timeout: 1s}}", `1:19: services.drift: url is missing`},
		{"a drift service that is told", "services: {drift: {url: 'https://d.example', report: true}}", `1:46: unknown key "report" (there are cache, headers, timeout, token_env, url)`},
		{"a service's token", "services: {reputation: {url: 'https://r.example', token_env: 'a b'}}", `1:62: services.reputation.token_env: want the name of an environment variable such as REPUTATION_TOKEN, got "a b"`},
		{"two tokens of a service", "services: {reputation: {url: 'https://r.example', token_env: T, headers: {authorization: x}}}", `1:24: services.reputation: token_env and a header Authorization: one of them`},
		{"a service's time", "services: {reputation: {url: 'https://r.example', timeout: 1h}}", `1:60: services.reputation.timeout: want a duration from 10ms to 30s such as 30s, 15m, 24h or 7d, got "1h"`},
		{"duplicate key", "data: a\nlisten: localhost:1\ndata: b\n", `3:1: key "data" is said twice`},
		{"not a mapping", "- a\n", `1:1: want keys with values, got a list`},
		{"syntax", "listen: [\n", `1:9: not YAML: sequence end token ']' not found`},
		{"not UTF-8", "data: a\nlisten: \xff", `2:9: invalid UTF-8 or a control character`},
		{"control character", "data: \"a\x00\"", `1:9: invalid UTF-8 or a control character`},
		{"too large", strings.Repeat("#", document.MaxBytes+1), `1:1: larger than 1048576 bytes`},
		{"too deep", "data: " + strings.Repeat("[", 100), `1:39: nested deeper than 32`},
		{"too deep in dashes", strings.Repeat("- ", 100), `1:65: nested deeper than 32`},
		{"too much", strings.Repeat("#\n", 7) + "data: [" + strings.Repeat("a,", 25_000) + "]", `8:49998: more than 50000 words and signs`},
		{"anchor", "data: &a x", `1:7: anchors, aliases and merge keys are not read here: write the value where it is used`},
		{"alias", "data: *a", `1:7: anchors, aliases and merge keys are not read here: write the value where it is used`},
		{"merge key", "session:\n  <<: {audit: true}\n", `2:3: anchors, aliases and merge keys are not read here: write the value where it is used`},
		{"tag", "data: !!str x", `1:7: tags are not read here: quote a text that starts with an exclamation mark`},
		{"two documents", "data: a\n---\ndata: b\n---\n", `2:1: a second document begins here: there is only one`},
		{"a document behind the first", "data: a\n---\npolicies: []\n", `2:1: a second document begins here: there is only one`},
		{"two headers", "---\n---\npolicies: []\n", `2:1: a second document begins here: there is only one`},
		{"words behind the end", "---\ndata: a\n...\n# nobody reads this\npolicies: []\n", `5:1: a second document begins here: there is only one`},
		{"complex key", "? data\n: x\n", "1:1: keys are written \"name: value\", without a question mark"},
		// simple values
		{"listen", "listen: 7700", `1:9: listen: want a text, got 7700: put it in quotes`},
		{"listen without port", "listen: localhost", `1:9: listen: want host:port such as 127.0.0.1:7700, got "localhost"`},
		{"listen port", "listen: localhost:70000", `1:9: listen: want host:port such as 127.0.0.1:7700, got "localhost:70000"`},
		{"listen service", "listen: localhost:http", `1:9: listen: want host:port such as 127.0.0.1:7700, got "localhost:http"`},
		{"data empty", "data: ''", `1:7: data: is empty`},
		{"data nothing", "data:\n", `1:1: data: want a text, got nothing`},
		{"data list", "data: [a]", `1:7: data: want a text, got a list`},
		{"data lines", "data: \"a\\nb\"", `1:7: data: has a line break or a control character`},
		// session
		{"session", "session: strong", `1:10: session: want keys with values, got "strong"`},
		{"session key", "session: {consistancy: strong}", `1:11: unknown key "consistancy" (did you mean "consistency"?)`},
		{"consistency", "session: {consistency: weak}", `1:24: session.consistency: "weak" is not one of strong, eventual`},
		{"participants low", "session:\n  max_participants: 0\n", `2:21: session.max_participants: want a whole number from 1 to 1000, got 0`},
		{"participants high", "session:\n  max_participants: 1001\n", `2:21: session.max_participants: want a whole number from 1 to 1000, got 1001`},
		{"participants text", "session:\n  max_participants: 'ten'\n", `2:21: session.max_participants: want a whole number from 1 to 1000, got "ten"`},
		{"participants float", "session:\n  max_participants: 1.5\n", `2:21: session.max_participants: want a whole number from 1 to 1000, got 1.5`},
		{"duration number", "session: {max_duration: 60}", `1:25: session.max_duration: want a duration from 1s to 7d such as 30s, 15m, 24h or 7d, got 60`},
		{"duration long", "session: {max_duration: 8d}", `1:25: session.max_duration: want a duration from 1s to 7d such as 30s, 15m, 24h or 7d, got "8d"`},
		{"duration short", "session: {max_duration: 999ms}", `1:25: session.max_duration: want a duration from 1s to 7d such as 30s, 15m, 24h or 7d, got "999ms"`},
		{"ttl", "session: {approval_ttl: -1m}", `1:25: session.approval_ttl: want a duration from 1s to 7d such as 30s, 15m, 24h or 7d, got "-1m"`},
		{"sigma high", "session: {min_sigma_eff: 1.1}", `1:26: session.min_sigma_eff: want a number from 0 to 1 with at most six places, got 1.1`},
		{"sigma fine", "session: {vouch_weight: 0.1234567}", `1:25: session.vouch_weight: want a number from 0 to 1 with at most six places, got 0.1234567`},
		{"sigma text", "session: {min_sigma_eff: '0.6'}", `1:26: session.min_sigma_eff: want a number from 0 to 1 with at most six places, got "0.6"`},
		{"audit", "session: {audit: yes}", `1:18: session.audit: want true or false, got "yes"`},
		{"network", "session: {network_allow: [a.example, 'https://b']}", `1:38: session.network_allow[1]: want a host such as api.example, api.example:8443 or *.example, got "https://b"`},
		{"network type", "session: {network_allow: a.example}", `1:26: session.network_allow: want a list, got "a.example"`},
		{"network twice", "session: {network_allow: [a, A]}", `1:30: session.network_allow[1]: "a" is listed twice`},
		{"files", "session: {files_scope: ['https:/x']}", `1:25: session.files_scope[0]: not a resource: "https:/x" is read as a URL by some programs and as a path by others`},
		// upstreams
		{"server neither", "mcpServers: {a: {}}", `1:17: mcpServers.a: wants either a command or a url`},
		{"server both", "mcpServers: {a: {command: x, url: 'http://h'}}", `1:17: mcpServers.a: wants either a command or a url`},
		{"server mixed", "mcpServers: {a: {url: 'http://h', env: {A: b}}}", `1:17: mcpServers.a: env does not go with a url`},
		{"server mixed headers", "mcpServers: {a: {command: x, headers: {A: b}}}", `1:17: mcpServers.a: headers does not go with a command`},
		{"server type", "mcpServers: {a: {command: x, type: http}}", `1:17: mcpServers.a: type http does not go with a command`},
		{"server unknown type", "mcpServers: {a: {command: x, type: ws}}", `1:36: mcpServers.a.type: "ws" is not one of stdio, http, streamable-http, sse`},
		{"server key", "mcpServers: {a: {comand: x}}", `1:18: unknown key "comand" (did you mean "command"?)`},
		{"server name", "mcpServers: {a.b: {command: x}}", `1:14: mcpServers.a.b: a server's name has letters, digits, _ and - only, at most 64, and starts with a letter or digit`},
		{"server own name", "mcpServers: {hypervisor: {command: x}}", `1:14: mcpServers.hypervisor: the name is taken by the hypervisor's own tools`},
		{"server in another case", "mcpServers: {files: {command: x}, Files: {command: y}}", `1:35: mcpServers.Files: the name looks like "files"; a rule or a grant could be read as the other's`},
		{"server drawn alike", "mcpServers: {files1: {command: x}, tiles1: {command: y}, search_0: {command: x}, search-o: {command: y}}", `1:82: mcpServers.search-o: the name looks like "search_0"; a rule or a grant could be read as the other's`},
		{"server drawn as another", "mcpServers: {mail: {command: x}, maiI: {command: y}}", `1:34: mcpServers.maiI: the name looks like "mail"; a rule or a grant could be read as the other's`},
		{"server url", "mcpServers: {a: {url: 'ftp://h'}}", `1:23: mcpServers.a.url: want an http or https URL, got "ftp://h"`},
		{"server header", "mcpServers: {a: {url: 'http://h', headers: {'A B': x}}}", `1:45: mcpServers.a.headers.A B: not a name that can be passed on`},
		{"server header value", "mcpServers: {a: {url: 'http://h', headers: {A: \"x\\r\\nB: y\"}}}", `1:48: mcpServers.a.headers.A: has a line break or a control character`},
		{"server env", "mcpServers: {a: {command: x, env: {A: [b]}}}", `1:39: mcpServers.a.env.A: want a text, got a list`},
		{"server args", "mcpServers: {a: {command: x, args: -y}}", `1:36: mcpServers.a.args: want a list, got "-y"`},
		{"file from bytes", "mcpServersFile: mcp.json", `1:17: mcpServersFile: only a configuration that is a file itself can name another`},
		// what is said of them
		{"unknown server", "mcpServers: {files: {command: x}}\nservers: {filez: {}}", `2:11: servers.filez: there is no "filez" in mcpServers (did you mean "files"?)`},
		{"unknown server, far", "mcpServers: {files: {command: x}}\nservers: {other: {}}", `2:11: servers.other: there is no "other" in mcpServers (there are files)`},
		{"no servers", "servers: {other: {}}", `1:11: servers.other: there is no "other" in mcpServers, nor is any other server`},
		{"pack", at("pack: filesytem"), `3:9: servers.a.pack: there is no pack "filesytem" (did you mean "filesystem"?)`},
		{"pack, far", at("pack: payments"), `3:9: servers.a.pack: there is no pack "payments" (there are everything, filesystem, git, memory, sequential-thinking, sqlite)`},
		{"pack, no text", at("pack: [filesystem]"), `3:9: servers.a.pack: want a text, got a list`},
		{"against a pack", at("actions: {read_file: {admin: true}}, pack: filesystem"), `3:13: servers.a.actions.read_file: bad descriptor: a.read_file is both read_only and admin`},
		{"trust", at("trust_annotations: 1"), `3:22: servers.a.trust_annotations: want true or false, got 1`},
		{"shared", at("shared: maybe"), `3:11: servers.a.shared: want true or false, got "maybe"`},
		{"sampling", at("sampling: ask"), `3:13: servers.a.sampling: want true or false, got "ask"`},
		{"roots", at("roots: [x]"), `3:10: servers.a.roots: want true or false, got a list`},
		{"reversibility", at("actions: {x: {reversibility: fully}}"), `3:32: servers.a.actions.x.reversibility: "fully" is not one of full, partial, none`},
		{"action key", at("actions: {x: {read-only: true}}"), `3:17: unknown key "read-only" (did you mean "read_only"?)`},
		{"action flag", at("actions: {x: {admin: 'true'}}"), `3:24: servers.a.actions.x.admin: want true or false, got "true"`},
		{"undo window", at("actions: {x: {undo_window: 0s}}"), `3:30: servers.a.actions.x.undo_window: want a duration from 1s to 3650d such as 30s, 15m, 24h or 7d, got "0s"`},
		{"resource template", at("actions: {x: {resource: '{{arg.p}}'}}"), `3:27: servers.a.actions.x.resource: bad template: {{arg.p}}: only args can be referred to here; write {{args.name}}`},
		{"resource", at("actions: {x: {resource: 'https:x'}}"), `3:27: servers.a.actions.x.resource: not a resource: "https:x" is read as a URL by some programs and as a path by others`},
		{"undo without tool", at("actions: {x: {undo: {args: {}}}}"), `3:23: servers.a.actions.x.undo: tool is missing`},
		{"undo args", at("actions: {x: {undo: {tool: y, args: [1]}}}"), `3:39: servers.a.actions.x.undo.args: want keys with values, got a list`},
		{"undo template", at("actions: {x: {undo: {tool: y, args: {p: [1, '{{x']}}}}"), `3:47: servers.a.actions.x.undo.args.p[1]: bad template: {{ is not closed`},
		{"undo infinity", at("actions: {x: {undo: {tool: y, args: {p: .inf}}}}"), `3:43: servers.a.actions.x.undo.args.p: .inf cannot be an argument`},
		{"undo of reading", at("actions: {x: {read_only: true, undo: {tool: y}}}"), `3:16: servers.a.actions.x: what is read_only has nothing to undo`},
		{"image of reading", at("actions: {x: {read_only: true, probe: {tool: y, done: a, undone: b}}}"), `3:16: servers.a.actions.x: what is read_only needs no image, after or probe`},
		{"image without bytes", at("actions: {x: {image: {tool: y}}}"), `3:24: servers.a.actions.x.image: bytes is missing`},
		{"image of a result", at("actions: {x: {image: {tool: y, args: {p: ['{{result.a}}']}, bytes: b}}}"), `3:45: servers.a.actions.x.image.args.p[0]: bad template: {{result.a}}: only args can be referred to here; write {{args.name}}`},
		{"image's encoding", at("actions: {x: {image: {tool: y, bytes: b, encoding: hex}}}"), `3:54: servers.a.actions.x.image.encoding: "hex" is not one of text, base64, json, compare`},
		{"image that writes", at("actions: {x: {image: {tool: y, bytes: b}, undo: []}, y: {reversibility: partial}}"), `3:13: servers.a.actions.x: image calls y, which is not said to be read_only: it is called in the hypervisor's name`},
		{"probe that writes", at("actions: {x: {probe: {tool: y, done: a, undone: b}}}"), `3:13: servers.a.actions.x: probe calls y, which is not said to be read_only: it is called in the hypervisor's name`},
		{"undo that reads", at("actions: {x: {undo: [{tool: y}]}, y: {read_only: true}}"), `3:13: servers.a.actions.x: an undo calls y, which is said to be read_only and so takes nothing back`},
		{"undo of an image", at("actions: {x: {undo: {tool: y, args: {p: '{{image.text}}'}}}}"), `3:13: servers.a.actions.x: bad descriptor: a.x refers to an image and has none`},
		{"undo list", at("actions: {x: {undo: [{tool: y}, {args: {}}]}}"), `3:35: servers.a.actions.x.undo[1]: tool is missing`},
		{"undo, far too much", at("actions: {x: {undo: [" + strings.Repeat("{tool: y}, ", 17) + "]}}"), `3:200: servers.a.actions.x.undo[16]: more than 16 calls`},
		{"undo where nothing was", at("actions: {x: {undo_absent: {tool: y, args: {p: '{{image.text}}'}}}}"), `3:50: servers.a.actions.x.undo_absent.args.p: bad template: {{image.text}}: only args, result, json, action can be referred to here; write {{args.name}}`},
		{"each", at("actions: {x: {undo: {tool: y, args: {p: {'{{each args.l}}': {'{{each args.m}}': 1}}}}}}"), `3:64: servers.a.actions.x.undo.args.p.{{each args.l}}.{{each args.m}}: bad template: {{each args.m}}: no each inside another`},
		{"each of many", at("actions: {x: {undo: {tool: y, args: {p: {'{{each args.l}}': 1, q: 2}}}}}"), `3:39: servers.a.actions.x.undo.args: bad template: {{each args.l}} does not stand alone in its mapping`},
		{"undo only", at("actions: {x: {undo_only: {mode: [[a]], force: []}}}"), "3:13: servers.a.actions.x: bad descriptor: a.x has an undo_only and no image: what it is not for could not be told before\n3:29: servers.a.actions.x.undo_only.mode: lists no value\n3:36: servers.a.actions.x.undo_only.mode[0]: want a text, a number, true, false or null, got a list\n3:42: servers.a.actions.x.undo_only.force: lists no value"},
		{"after", at("actions: {x: {after: ' '}}"), `3:24: servers.a.actions.x.after: is empty`},
		{"probe", at("actions: {x: {probe: {tool: y, done: a}}}"), `3:24: servers.a.actions.x.probe: undone is missing`},
		{"reading and none", at("actions: {x: {read_only: true, reversibility: none}}"), `3:16: servers.a.actions.x: what is read_only is not reversibility: none`},
		{"reading and admin", at("actions: {x: {read_only: true}, '*': {admin: true}}"), `3:13: servers.a.actions.x: bad descriptor: a.x is both read_only and admin`},
		{"tool's name", at("actions: {'a b': {}}"), `3:13: servers.a.actions.a b: bad descriptor: id "a.a b": letters, digits and ._:/- only, at most 256 bytes`},
		// who
		{"did", "agents: [{did: bob, sigma: 0.8}]", `1:16: agents[0].did: "bob": not a DID (did:method:identifier)`},
		{"no did", "agents:\n  - sigma: 0.8\n", `2:5: agents[0]: did is missing`},
		{"sigma", "agents: [{did: 'did:mesh:a', sigma: 2}]", `1:37: agents[0].sigma: want a number from 0 to 1 with at most six places, got 2`},
		{"agent twice", "agents: [{did: 'did:mesh:a'}, {did: 'did:mesh:a'}]", `1:31: agents[1]: did:mesh:a is listed twice`},
		{"agent's shape", "agents: ['did:mesh:a']", `1:10: agents[0]: want keys with values, got "did:mesh:a"`},
		{"role", "roles: {operators: []}", `1:9: unknown key "operators" (did you mean "operator"?)`},
		{"role did", "roles: {auditor: ['did:x']}", `1:19: roles.auditor[0]: "did:x": not a DID (did:method:identifier)`},
		{"role twice", "roles: {auditor: [a, a]}", `1:22: roles.auditor[1]: "a" is listed twice`},
		{"role long", "roles: {auditor: [" + strings.Repeat("a", 256) + "]}", `1:19: roles.auditor[0]: longer than 255 bytes`},
		{"a host with a star", "hosts: ['*.example']", `1:9: hosts[0]: a name is said in full, got "*.example"`},
		{"oauth of a command", "mcpServers: {a: {command: x}}\nservers: {a: {oauth: {token_url: 'https://t.example', client_id: i, client_secret: s}}}", `2:22: servers.a.oauth: a server that is a command shows no token`},
		{"oauth in part", "mcpServers: {a: {url: 'https://a.example'}}\nservers: {a: {oauth: {token_url: 'https://t.example', client_id: i}}}", `2:22: servers.a.oauth: client_secret is missing`},
		{"oauth over plain http", "mcpServers: {a: {url: 'https://a.example'}}\nservers: {a: {oauth: {token_url: 'http://t.example', client_id: i, client_secret: s}}}", `2:34: servers.a.oauth.token_url: the secret would go in the clear; want https, or a loopback address`},
		{"an address with another spelling", "addresses: {'https://h/a/../b': {}}", `1:13: addresses.https://h/a/../b: "https://h/a/../b" has another spelling; write it as "https://h/b"`},
		{"an address that is none", "addresses: {h: {}}", `1:13: addresses.h: want an address such as https://deploy.example/east, without user and fragment, got "h"`},
		{"an address's method", "addresses: {'https://h/': {method: TRACE}}", `1:36: addresses.https://h/.method: "TRACE" is not one of POST, PUT, PATCH, DELETE, GET`},
		{"an address that is full", "addresses: {'https://h/': {reversibility: full}}", `1:43: addresses.https://h/.reversibility: "full" is not one of partial, none`},
		{"an address of two kinds", "addresses: {'https://h/': {read_only: true, admin: true}}", `1:13: addresses.https://h/: bad descriptor: https://h/ is both read_only and admin`},
		{"a range", "addresses: {'https://h/': {private: [10.0.0.1/8, x]}}", "1:38: addresses.https://h/.private[0]: 10.0.0.1/8 begins at 10.0.0.0\n1:50: addresses.https://h/.private[1]: want a range such as 10.1.0.0/16, or an IP address, got \"x\""},
		{"a mapped range", "addresses: {'https://h/': {private: ['::ffff:10.0.0.0/104']}}", `1:38: addresses.https://h/.private[0]: want a range such as 10.1.0.0/16, or an IP address, got "::ffff:10.0.0.0/104"`},
		{"an address's secret", "addresses: {'https://h/': {secret: whsec_MfKQ}}", `1:36: addresses.https://h/.secret: is no secret: want whsec_ and at least 24 bytes in base64`},
		{"two secrets", "addresses: {'https://h/': {secret: whsec_MfKQ, secret_file: x}}", "1:13: addresses.https://h/: wants either a secret or a secret_file\n1:36: addresses.https://h/.secret: is no secret: want whsec_ and at least 24 bytes in base64\n1:61: addresses.https://h/.secret_file: only a configuration that is a file itself can name another"},
		{"headers in the clear", "addresses: {'http://h/': {headers: {Authorization: x}}}", `1:36: addresses.http://h/.headers: they would go in the clear; want https, or a loopback address`},
		{"a header of ours", "addresses: {'https://h/': {headers: {idempotency-key: x}}}", `1:37: addresses.https://h/.headers: idempotency-key is what the hypervisor says itself`},
		{"an address's time", "addresses: {'https://h/': {timeout: 2h}}", `1:37: addresses.https://h/.timeout: want a duration from 10ms to 1h0m0s such as 30s, 15m, 24h or 7d, got "2h"`},
		{"an address's answer", "addresses: {'https://h/': {max_answer: 1}}", `1:40: addresses.https://h/.max_answer: want a whole number from 1024 to 16777216, got 1`},
		{"anonymous", "listen: 0.0.0.0:7700\nanonymous_agent: {did: 'did:mesh:local', sigma: 0.80}", `2:18: anonymous_agent: whoever reaches 0.0.0.0:7700 would be did:mesh:local; listen on a loopback address such as 127.0.0.1:7700, or remove it`},
		{"anonymous everywhere", "anonymous_agent: {did: 'did:mesh:local'}\nlisten: ':7700'", `1:18: anonymous_agent: whoever reaches :7700 would be did:mesh:local; listen on a loopback address such as 127.0.0.1:7700, or remove it`},
		// rules
		{"policy without", "policies:\n  - name: a\n", "2:5: policies[0]: when is missing\n2:5: policies[0]: effect is missing"},
		{"policy empty", "policies: [{name: a, when: '', effect: deny}]", `1:28: policies[0].when: is empty`},
		{"policy effect", "policies: [{name: a, when: 'true', effect: allow}]", `1:44: policies[0].effect: "allow" is not one of deny, require_approval`},
		{"policy twice", "policies:\n  - {name: a, when: 'true', effect: deny}\n  - {name: a, when: 'true', effect: deny}", `3:5: policies[1]: the name "a" is used twice`},
		{"policy name", "policies: [{name: " + strings.Repeat("a", 129) + ", when: 'true', effect: deny}]", `1:19: policies[0].name: longer than 128 bytes`},
		{"policies", "policies: {name: a}", `1:11: policies: want a list, got keys with values`},
		{"policy shape", "policies: [a]", `1:12: policies[0]: want keys with values, got "a"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("f", []byte(c.yaml), nil)
			want := "f:" + strings.ReplaceAll(c.want, "\n", "\nf:")
			if err == nil || err.Error() != want {
				t.Errorf("got\n%v\nwant\n%s", err, want)
			}
			var one document.Fault
			if !errors.As(err, &one) {
				t.Errorf("%T holds no Fault", err)
			}
		})
	}
}

// at is a configuration with one line about server a, at 3:3.
func at(line string) string {
	return "mcpServers: {a: {command: x}}\nservers: {a: {\n  " + line + "\n}}"
}

// What is wrong in an expression is pointed at in the file, however the expression is quoted.
func TestFaultInAnExpressionIsPlacedInTheFile(t *testing.T) {
	for name, c := range map[string]struct{ yaml, want string }{
		"plain":                  {"policies:\n  - name: a\n    when: ring == 2 && nope\n    effect: deny\n", "3:24"},
		"single quoted":          {"policies:\n  - name: a\n    when: 'agent == ''x'' && nope'\n    effect: deny\n", "3:30"},
		"double quoted":          {"policies:\n  - name: a\n    when: \"agent == \\\"\\u00e9\\\" && nope\"\n    effect: deny\n", "3:35"},
		"flow":                   {"policies: [{name: a, when: 'ring == 2 && nope', effect: deny}]", "1:42"},
		"JSON":                   {`{"policies": [{"name": "a", "when": "agent == \"x\" && nope", "effect": "deny"}]}`, "1:56"},
		"literal":                {"policies:\n  - name: a\n    when: |\n      ring == 2\n        && nope\n    effect: deny\n", "5:12"},
		"folded":                 {"policies:\n  - name: a\n    when: >-\n      ring == 2\n      && nope\n    effect: deny\n", "5:10"},
		"over lines":             {"policies:\n  - name: a\n    when: ring == 2\n      && nope\n    effect: deny\n", "4:10"},
		"quoted, over lines":     {"policies:\n  - name: a\n    when: 'ring == 2\n\n      && nope'\n    effect: deny\n", "5:10"},
		"after Unicode":          {"policies:\n  - {name: é, when: 'agent == \"é\" && nope', effect: deny}\n", "2:38"},
		"with CRLF":              {"policies:\r\n  - name: a\r\n    when: |\r\n      ring == 2\r\n        && nope\r\n    effect: deny\r\n", "5:12"},
		"at its end":             {"policies: [{name: a, when: 'ring == 2 &&', effect: deny}]", "1:41"},
		"with a byte order mark": {"\ufeffpolicies: [{name: a, when: 'nope', effect: deny}]", "1:29"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("f", []byte(c.yaml), nil)
			if err == nil || !strings.HasPrefix(err.Error(), "f:"+c.want+": policies[0].when: ") || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want it at %s", err, c.want)
			}
		})
	}
}

func TestAllFaultsAreReportedInFileOrder(t *testing.T) {
	const yaml = `servers:
  files: {trust_annotations: 1}
pollicies: []
session:
  max_participants: 5000
  audit: "no"
policies:
  - {name: a, when: 'nope && zip', effect: stop}
  - {name: a, when: 'true', effect: deny}
listen: nowhere
`
	_, err := Parse("hypervisor.yaml", []byte(yaml), nil)
	want := `hypervisor.yaml:2:3: servers.files: there is no "files" in mcpServers, nor is any other server
hypervisor.yaml:2:30: servers.files.trust_annotations: want true or false, got 1
hypervisor.yaml:3:1: unknown key "pollicies" (did you mean "policies"?)
hypervisor.yaml:5:21: session.max_participants: want a whole number from 1 to 1000, got 5000
hypervisor.yaml:6:10: session.audit: want true or false, got "no"
hypervisor.yaml:8:22: policies[0].when: unknown name "nope" (there are agent, action, args, resource, session, ring, sigma, now)
hypervisor.yaml:8:30: policies[0].when: unknown name "zip" (there are agent, action, args, resource, session, ring, sigma, now)
hypervisor.yaml:8:44: policies[0].effect: "stop" is not one of deny, require_approval
hypervisor.yaml:9:5: policies[1]: the name "a" is used twice
hypervisor.yaml:10:9: listen: want host:port such as 127.0.0.1:7700, got "nowhere"`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestFaultsEndSomewhere(t *testing.T) {
	_, err := Parse("f", []byte("roles: {auditor: ["+strings.Repeat("a,", 20_000)+"]}"), nil)
	var faults document.Faults
	if !errors.As(err, &faults) || len(faults) != document.MaxFaults {
		t.Errorf("%d faults", len(faults))
	}
}
