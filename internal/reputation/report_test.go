package reputation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/internal/service"
	"github.com/agenthypervisor/hypervisor/ring"
)

var slashed = agent.Notice{ID: audit.Leaf([]byte("x")), Agent: ann, Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Kind: agent.Slashing, Session: "ses-1", Severity: 500_000, Cause: "it wiped a folder"}

func schemaOf(t *testing.T, file string) *jsonschema.Resolved {
	t.Helper()
	b, err := os.ReadFile("../../docs/" + file)
	var schema jsonschema.Schema
	if err == nil {
		err = json.Unmarshal(b, &schema)
	}
	if err != nil {
		t.Fatal(err)
	}
	resolved, err := schema.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	return resolved
}

// docs/reputation.md "The report"; every kind that is told is one that the schema takes.
func TestAReportIsWhatTheSchemaSays(t *testing.T) {
	schema := schemaOf(t, "report.schema.json")
	var body []byte
	s, told := served(t, service.Options{Headers: map[string]string{"Authorization": "Bearer x", "Idempotency-Key": "mine"}}, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/v1/reports" || r.Header.Get("Authorization") != "Bearer x" || r.Header.Get("Idempotency-Key") != slashed.ID.String() {
			t.Errorf("%s %s %v", r.Method, r.URL.Path, r.Header)
		}
		body, _ = io.ReadAll(r.Body)
		fmt.Fprintf(w, `{"id":%q,"seen":true}`, slashed.ID)
	})
	said := 0
	for _, kind := range []agent.Kind{agent.Clean, agent.Fault, agent.Quarantine, agent.Slashing, agent.Clip, agent.Reinstatement, agent.Reserve, agent.Release, agent.Score, ""} {
		if !kind.Notable() {
			continue
		}
		said++
		n := slashed
		n.Kind, n.Sigma, n.Share, n.Lost = kind, ring.MustSigma("0.7999"), 333_333, 1
		if taken, err := s.Report(context.Background(), n); err != nil || !taken {
			t.Fatalf("%t, %v", taken, err)
		}
		var v map[string]any
		if err := json.Unmarshal(body, &v); err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(v); err != nil || v["score"] != float64(799) || v["share"] != 0.333333 || v["kind"] != string(kind) {
			t.Errorf("%s: %v", body, err)
		}
	}
	if told.Load() != int64(said) || said != 6 {
		t.Errorf("told %d of %d times", told.Load(), said)
	}
}

// What does not say that it has the report leaves it owed: an error, a page in between, a redirect, another's id, no answer.
func TestWhatIsNoReceiptLeavesTheReportOwed(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request){
		"a failure":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"not there":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		"too many":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) },
		"who are you":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
		"nothing":      func(http.ResponseWriter, *http.Request) {},
		"a login page": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>please log in</html>") },
		"another's id": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"id":%q}`, audit.Leaf(nil)) },
		"an id twice": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"id":%q,"id":%q}`, slashed.ID, slashed.ID)
		},
		"too long": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"id":%q}%s`, slashed.ID, strings.Repeat(" ", maxAnswer))
		},
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		},
		"the end of it":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"accepted, only": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) },
	} {
		s, _ := served(t, service.Options{}, answer)
		if taken, err := s.Report(context.Background(), slashed); taken || err == nil {
			t.Errorf("%s: taken %t, %v", name, taken, err)
		}
	}
	s, _ := served(t, service.Options{Timeout: time.Millisecond}, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then a server sees that its client has gone
		<-r.Context().Done()
	})
	if taken, err := s.Report(context.Background(), slashed); taken || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one that does not answer: %t, %v", taken, err)
	}
	s, _ = served(t, service.Options{}, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnprocessableEntity) })
	if taken, err := s.Report(context.Background(), slashed); taken || err != nil {
		t.Errorf("one that does not want it: %t, %v", taken, err)
	}
}

// A service that takes no reports is asked for scores all the same.
func TestReportsThatFailKeepNoScoreBack(t *testing.T) {
	s, _ := served(t, service.Options{}, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fmt.Fprint(w, `{"agent":"did:mesh:ann","score":725}`)
	})
	for range 2 * service.BreakAfter {
		if _, err := s.Report(context.Background(), slashed); err == nil {
			t.Error("taken")
		}
	}
	if got, err := s.Score(context.Background(), ann); err != nil || got.String() != "0.725" {
		t.Errorf("%s, %v", got, err)
	}
}
