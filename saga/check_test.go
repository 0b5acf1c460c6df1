package saga_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/internal/scenario"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/saga"
)

// one returns a definition with a step of its own making.
func one(step string) string {
	return "saga: s\nsteps:\n  - {id: a, agent: 'did:mesh:x', action: files.read}\n  - " + step + "\n"
}

// Every fault, with its exact text and place.
func TestEveryFaultSaysWhereAndWhat(t *testing.T) {
	known := saga.Known{Agents: []policy.DID{"did:mesh:x", "did:mesh:ops"}, Servers: []string{"files", "tickets"}}
	for _, c := range []struct{ name, yaml, want string }{
		{"nothing", "", `1:1: saga: has no name|1:1: steps: there are none`},
		{"no steps", "saga: s\nsteps: []\n", `2:8: steps: there are none`},
		{"steps of a wrong type", "saga: s\nsteps: {a: b}\n", `2:8: steps: want a list, got keys with values`},
		{"a step of a wrong type", "saga: s\nsteps:\n  - check\n", `3:5: steps[0]: want keys with values, got "check"`},
		{"name of a wrong type", "saga: [s]\nsteps:\n  - {id: a, agent: 'did:mesh:x', action: files.read}\n", `1:7: saga: want a text, got a list`},
		{"unknown key at the top", one("{id: b, agent: 'did:mesh:x', action: files.read}") + "fanout: []\n", `5:1: unknown key "fanout" (did you mean "fan_out"?)`},
		{"unknown key in a step", one("{id: b, agent: 'did:mesh:x', acton: files.read}"), `4:34: unknown key "acton" (did you mean "action"?)`},
		{"unknown key far", one("{id: b, agent: 'did:mesh:x', action: files.read, zebra: 1}"), `4:54: unknown key "zebra" (there are action, agent, args, checkpoint, execute, id, needs, retries, substitutes, timeout, undo)`},
		{"key twice", one("{id: b, id: c, agent: 'did:mesh:x', action: files.read}"), `4:13: key "id" is said twice`},
		{"isolation", "isolation: sometimes\n" + one("{id: b, agent: 'did:mesh:x', action: files.read}"), `1:12: isolation: "sometimes" is not one of read_committed, snapshot, serializable`},

		{"id missing", one("{agent: 'did:mesh:x', action: files.read}"), `4:5: steps[1]: id is missing`},
		{"id shape", one("{id: 'b c', agent: 'did:mesh:x', action: files.read}"), `4:10: steps[1].id: want letters, digits and ._- within, at most 64 bytes, got "b c"`},
		{"id number", one("{id: 7, agent: 'did:mesh:x', action: files.read}"), `4:10: steps[1].id: want a text, got 7: put it in quotes`},
		{"id twice", one("{id: a, agent: 'did:mesh:x', action: files.read}"), `4:10: steps[1].id: "a" is the id of steps[0] too`},
		{"agent missing", one("{id: b, action: files.read}"), `4:5: steps[1]: agent is missing`},
		{"agent no DID", one("{id: b, agent: bob, action: files.read}"), `4:20: steps[1].agent: "bob": not a DID (did:method:identifier)`},
		{"agent unknown", one("{id: b, agent: 'did:mesh:opps', action: files.read}"), `4:20: steps[1].agent: there is no agent "did:mesh:opps" (did you mean "did:mesh:ops"?)`},
		{"action missing", one("{id: b, agent: 'did:mesh:x'}"), `4:5: steps[1]: action is missing`},
		{"action shape", one("{id: b, agent: 'did:mesh:x', action: 'files read'}"), `4:42: steps[1].action: id "files read": letters, digits and ._:/- only, at most 256 bytes`},
		{"action of an unknown server", one("{id: b, agent: 'did:mesh:x', action: fils.read}"), `4:42: steps[1].action: there is no server "fils" (did you mean "files"?)`},
		{"action and execute", one("{id: b, agent: 'did:mesh:x', action: files.read, execute: 'func:f'}"), `4:5: steps[1]: wants either an action or an execute`},
		{"undo of an action", one("{id: b, agent: 'did:mesh:x', action: files.read, undo: 'func:f'}"), `4:60: steps[1].undo: an action is undone as its descriptor says; say execute to name an undo here`},
		{"target", one("{id: b, agent: 'did:mesh:x', execute: 'ftp://x/y'}"), `4:43: steps[1].execute: want mcp:server/tool, func:name or https://…, got "ftp://x/y"`},
		{"target of an unknown server", one("{id: b, agent: 'did:mesh:x', execute: 'mcp:ticket/close'}"), `4:43: steps[1].execute: there is no server "ticket" (did you mean "tickets"?)`},
		{"target without a tool", one("{id: b, agent: 'did:mesh:x', execute: 'mcp:files'}"), `4:43: steps[1].execute: want mcp:server/tool, got "mcp:files"`},
		{"target without a host", one("{id: b, agent: 'did:mesh:x', execute: 'https:///east'}"), `4:43: steps[1].execute: want an address such as https://deploy.example/east, without user and fragment, got "https:///east"`},
		{"target with a password", one("{id: b, agent: 'did:mesh:x', execute: 'https://a:b@c/east'}"), `4:43: steps[1].execute: want an address such as https://deploy.example/east, without user and fragment, got "https://a:b@c/east"`},
		{"undo target", one("{id: b, agent: 'did:mesh:x', execute: 'func:f', undo: 'func:'}"), `4:59: steps[1].undo: want func:name, got "func:"`},
		{"args list", one("{id: b, agent: 'did:mesh:x', action: files.read, args: [1]}"), `4:60: steps[1].args: they are not an object`},
		{"args no JSON", one("{id: b, agent: 'did:mesh:x', action: files.read, args: {a: .nan}}"), `4:64: steps[1].args.a: .nan is nothing that JSON can say`},
		{"timeout", one("{id: b, agent: 'did:mesh:x', action: files.read, timeout: 0s}"), `4:63: steps[1].timeout: want a duration from 1ms to 1d such as 30s, 15m, 24h or 7d, got "0s"`},
		{"timeout number", one("{id: b, agent: 'did:mesh:x', action: files.read, timeout: 30}"), `4:63: steps[1].timeout: want a duration from 1ms to 1d such as 30s, 15m, 24h or 7d, got 30`},
		{"retries", one("{id: b, agent: 'did:mesh:x', action: files.read, retries: 11}"), `4:63: steps[1].retries: want a whole number from 0 to 10, got 11`},
		{"checkpoint", one("{id: b, agent: 'did:mesh:x', action: files.read, checkpoint: ''}"), `4:66: steps[1].checkpoint: is empty`},

		{"need unknown", one("{id: b, agent: 'did:mesh:x', action: files.read, needs: [a, chek]}"), `4:65: steps[1].needs[1]: there is no step "chek"`},
		{"need near", one("{id: check, agent: 'did:mesh:x', action: files.read, needs: [chek]}"), `4:66: steps[1].needs[0]: there is no step "chek" (did you mean "check"?)`},
		{"need twice", one("{id: b, agent: 'did:mesh:x', action: files.read, needs: [a, a]}"), `4:65: steps[1].needs[1]: "a" is listed twice`},
		{"need itself", one("{id: b, agent: 'did:mesh:x', action: files.read, needs: [b]}"), `4:62: steps[1].needs[0]: "b" needs itself`},
		{"need of a wrong type", one("{id: b, agent: 'did:mesh:x', action: files.read, needs: a}"), `4:61: steps[1].needs: want a list, got "a"`},
		{"cycle of two", one("{id: b, agent: 'did:mesh:x', action: files.read, needs: [a, c]}") + "  - {id: c, agent: 'did:mesh:x', action: files.read, needs: [b]}\n", `4:65: steps[1].needs[1]: closes a cycle: b → c → b`},
		{"cycle through a group", one("{id: b, agent: 'did:mesh:x', action: files.read, needs: [a]}") + "fan_out: [{policy: any, branches: [a, b]}]\n", `4:62: steps[1].needs[0]: closes a cycle: b → fan_out[0] → b`},

		{"policy", one("{id: b, agent: 'did:mesh:x', action: files.read}") + "fan_out: [{policy: most, branches: [a, b]}]\n", `5:20: fan_out[0].policy: "most" is not one of all, majority, any`},
		{"policy missing", one("{id: b, agent: 'did:mesh:x', action: files.read}") + "fan_out: [{branches: [a, b]}]\n", `5:11: fan_out[0]: policy is missing`},
		{"branch unknown", one("{id: b, agent: 'did:mesh:x', action: files.read}") + "fan_out: [{policy: all, branches: [a, bb]}]\n", `5:39: fan_out[0].branches[1]: there is no step "bb" (did you mean "b"?)`},
		{"branch alone", one("{id: b, agent: 'did:mesh:x', action: files.read}") + "fan_out: [{policy: all, branches: [a]}]\n", `5:11: fan_out[0]: wants at least two branches`},
		{"branch twice", one("{id: b, agent: 'did:mesh:x', action: files.read}") + "fan_out: [{policy: all, branches: [a, b]}, {policy: any, branches: [b, a]}]\n", `5:69: fan_out[1].branches[0]: "b" stands in fan_out[0].branches[1] too|5:72: fan_out[1].branches[1]: "a" stands in fan_out[0].branches[0] too`},

		{"everything at once", "saga: s\nisolation: x\nsteps:\n  - {id: a, agent: bob, action: files.read, needs: [z]}\n  - {id: a, agent: 'did:mesh:x', retires: 1}\n",
			`2:12: isolation: "x" is not one of read_committed, snapshot, serializable|4:20: steps[0].agent: "bob": not a DID (did:method:identifier)|4:53: steps[0].needs[0]: there is no step "z" (did you mean "a"?)|5:10: steps[1].id: "a" is the id of steps[0] too|5:34: unknown key "retires" (did you mean "retries"?)`},
	} {
		_, err := saga.ParseYAML("f", []byte(c.yaml), known)
		want := "f:" + strings.ReplaceAll(c.want, "|", "\nf:")
		if err == nil || err.Error() != want {
			t.Errorf("%s: got\n%v\nwant\n%s", c.name, err, want)
		}
	}
}

// The folders of good and bad definitions that a reader is shown.
func TestDefinitionsInTheFoldersAreWhatTheyAreCalled(t *testing.T) {
	var found strings.Builder
	for _, pattern := range []string{"good/*.*", "bad/*.*"} {
		names, err := filepath.Glob(filepath.Join("testdata", pattern))
		if err != nil || len(names) < 3 {
			t.Fatal(names, err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			parse := saga.ParseYAML
			if filepath.Ext(name) == ".json" {
				parse = saga.ParseJSON
			}
			if _, err = parse(filepath.Base(name), text, saga.Known{}); (err == nil) != strings.HasPrefix(pattern, "good") {
				t.Errorf("%s: %v", name, err)
			}
			if err != nil {
				fmt.Fprintln(&found, err)
			}
		}
	}
	golden := filepath.Join("testdata", "faults.txt")
	if *scenario.Update {
		if err := os.WriteFile(golden, []byte(found.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(golden); err != nil || string(want) != found.String() {
		t.Errorf("got\n%s\nwant\n%s (%v)", found.String(), want, err)
	}
}

func TestTooManyStepsAreOneFault(t *testing.T) {
	steps := func(n int) string {
		var b strings.Builder
		b.WriteString("saga: s\nsteps:\n")
		for i := range n {
			fmt.Fprintf(&b, "- {id: s%d, agent: 'did:mesh:x', action: f", i)
			if i > 0 {
				fmt.Fprintf(&b, ", needs: [s%d]", i-1)
			}
			b.WriteString("}\n")
		}
		return b.String()
	}
	if d, err := saga.ParseYAML("f", []byte(steps(saga.MaxSteps)), saga.Known{}); err != nil || len(d.Steps) != saga.MaxSteps {
		t.Error(err)
	}
	for n, want := range map[int]string{
		saga.MaxSteps + 1: `f:3:1: steps: there are 1001, and a saga has at most 1000`,
		10_000:            `f:2503:3: more than 50000 words and signs: a saga has at most 1000 steps`,
	} {
		if _, err := saga.ParseYAML("f", []byte(steps(n)), saga.Known{}); err == nil || err.Error() != want {
			t.Errorf("%d steps: %v", n, err)
		}
	}
}

// The contract's own example, and what it means.
func TestContractsExampleIsRead(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "good", "release.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := saga.ParseYAML("release.yaml", text, saga.Known{})
	if err != nil {
		t.Fatal(err)
	}
	want := &saga.Definition{Name: "release", Isolation: saga.Snapshot, Steps: []saga.Step{
		{ID: "check", Agent: "did:mesh:ci", Action: "files.read_text_file", Args: []byte(`{"path":"a.txt"}`), Timeout: 30 * time.Second, Retries: 2},
		{ID: "east", Agent: "did:mesh:ops", Execute: "https://deploy.example/east", Undo: "https://deploy.example/east/rollback", Args: []byte(`{"v":7}`), Needs: []string{"check"}},
		{ID: "west", Agent: "did:mesh:ops", Execute: "func:deployWest", Undo: "func:rollbackWest", Needs: []string{"check"}, Checkpoint: "west is on 7"},
	}, FanOut: []saga.Group{{Policy: saga.Majority, Branches: []string{"east", "west"}}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if contract, err := os.ReadFile(filepath.Join("..", "docs", "contract.md")); err != nil || !strings.Contains(string(contract), "```yaml\n"+string(text)+"```") {
		t.Errorf("the example is not the contract's (%v)", err)
	}
}

func TestJSONIsReadAsYAMLIsButStrictly(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "good", "release.json"))
	if err != nil {
		t.Fatal(err)
	}
	fromJSON, err := saga.ParseJSON("f", text, saga.Known{})
	if err != nil {
		t.Fatal(err)
	}
	yaml, err := os.ReadFile(filepath.Join("testdata", "good", "release.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	fromYAML, err := saga.ParseYAML("f", yaml, saga.Known{})
	if err != nil || !reflect.DeepEqual(fromJSON, fromYAML) {
		t.Errorf("%+v\n%+v, %v", fromJSON, fromYAML, err)
	}
	if _, err := saga.ParseJSON("f", yaml, saga.Known{}); err == nil || err.Error() != `f:1:1: not JSON: invalid character 's' at start of value` {
		t.Error(err)
	}
}

func TestDefinitionInGoIsCheckedByName(t *testing.T) {
	d := saga.Definition{Name: "s", Steps: []saga.Step{
		{ID: "a", Agent: "did:mesh:x", Action: "read", Retries: -1, Needs: []string{"b"}},
		{ID: "b", Agent: "did:mesh:x", Action: "write", Args: []byte("{"), Timeout: -1, Needs: []string{"a"}},
	}}
	want := `saga s: steps[0].retries: want a whole number from 0 to 10, got -1
saga s: steps[1].args: jsontext: unexpected EOF after offset 1
saga s: steps[1].timeout: want a duration from 1ms to 24h0m0s, got -1ns
saga s: steps[0].needs[0]: closes a cycle: a → b → a`
	if got := d.Check(saga.Known{}); got.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", got, want)
	}
	d.Steps = d.Steps[:1]
	d.Steps[0].Needs, d.Steps[0].Retries = nil, 0
	if got := d.Check(saga.Known{}); got != nil {
		t.Error(got)
	}
	d.Steps[0].Checkpoint = strings.Repeat("x", 257)
	if got := d.Check(saga.Known{}); got == nil || got.Error() != "saga s: steps[0].checkpoint: longer than 256 bytes" {
		t.Error(got)
	}
}

// Steps may need each other 10,000 times in all, and not once more: what judges them takes time by that.
func TestTooManyNeedsAreOneFault(t *testing.T) {
	d := saga.Definition{Name: "s", Steps: make([]saga.Step, 201)}
	needs := 0
	for i := range d.Steps {
		d.Steps[i] = saga.Step{ID: fmt.Sprint("s", i), Agent: "did:mesh:x", Action: "f"}
		for j := range i {
			if needs == 10_000 {
				break
			}
			d.Steps[i].Needs = append(d.Steps[i].Needs, d.Steps[j].ID)
			needs++
		}
	}
	if got := d.Check(saga.Known{}); got != nil {
		t.Error(got)
	}
	d.Steps[200].Needs = append(d.Steps[200].Needs, "s199")
	if got := d.Check(saga.Known{}); got == nil || got.Error() != "saga s: steps: they have 10001 needs, and at most 10000 can be had" {
		t.Error(got)
	}
}

// SPEC §5 "agent by agent": each agent's is its most privileged step, wherever that stands.
func TestTheWorstCaseIsAnAgentsMostPrivilegedStep(t *testing.T) {
	d := saga.Definition{Name: "s", Steps: []saga.Step{{ID: "a", Agent: "did:mesh:x"}, {ID: "b", Agent: "did:mesh:y"}, {ID: "c", Agent: "did:mesh:x"}, {ID: "d", Agent: "did:mesh:x"}, {ID: "e", Agent: "did:mesh:y"}}}
	rings := map[string]ring.Ring{"a": ring.Standard, "b": ring.Privileged, "c": ring.Privileged, "d": ring.Sandbox, "e": ring.Standard}
	want := []saga.Worst{{Agent: "did:mesh:x", Step: "c", Ring: ring.Privileged}, {Agent: "did:mesh:y", Step: "b", Ring: ring.Privileged}}
	if got := d.WorstCase(func(s *saga.Step) ring.Ring { return rings[s.ID] }); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"good/*", "bad/*"} {
		names, err := filepath.Glob(filepath.Join("testdata", pattern))
		if err != nil || len(names) == 0 {
			f.Fatal(names, err)
		}
		for _, name := range names {
			b, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func(string, []byte, saga.Known) (*saga.Definition, error){saga.ParseYAML, saga.ParseJSON} {
			d, err := parse("f", b, saga.Known{})
			if err == nil {
				if again := d.Check(saga.Known{}); again != nil {
					t.Errorf("read, and then at fault: %v", again)
				}
				continue
			}
			var faults document.Faults
			if !errors.As(err, &faults) {
				t.Fatalf("%T: %v", err, err)
			}
			for _, fault := range faults {
				if fault.Line < 1 || fault.Col < 1 || fault.What == "" {
					t.Errorf("%#v", fault)
				}
			}
		}
	})
}
