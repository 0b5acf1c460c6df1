// Command deploy is a small server that sagas deploy with, to try addresses with and to read: POST /do/PLACE deploys there, POST
// /do/PLACE/rollback takes that back. It takes two calls with one Idempotency-Key for one, and of DEPLOY_SECRET's holder only. West has no
// room for version 8. It keeps everything in memory.
//
//	export DEPLOY_SECRET=whsec_$(head -c 32 /dev/urandom | base64)
//	go run ./examples/deploy &
//	go run ./cmd/hypervisor serve -c examples/deploy/hypervisor.yaml &
//	go run ./cmd/hypervisor session create --name dev --data hypervisor-data
//	go run ./cmd/hypervisor session join dev --agent did:mesh:ops --data hypervisor-data
//	go run ./cmd/hypervisor session activate dev --data hypervisor-data
//	go run ./cmd/hypervisor saga run examples/deploy/release.yaml --session dev --data hypervisor-data
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxBody   = 1 << 20         // bytes
	tolerance = 5 * time.Minute // between our clock and the sender's
)

func main() {
	listen := flag.String("listen", "127.0.0.1:7810", "host:port")
	flag.Parse()
	s, err := newServer(os.Getenv("DEPLOY_SECRET"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "deploy: DEPLOY_SECRET:", err)
		os.Exit(2)
	}
	fmt.Printf("deploys on http://%s\n", *listen)
	server := &http.Server{Addr: *listen, Handler: s, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, "deploy:", err)
		os.Exit(1)
	}
}

// A server knows what is deployed where.
type server struct {
	secret []byte

	mu       sync.Mutex
	versions map[string][]int // by place: what was deployed there, the newest last
	done     map[string]bool  // by Idempotency-Key
}

func newServer(secret string) (*server, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil || len(key) == 0 {
		return nil, fmt.Errorf("want whsec_ and a key in base64: %w", err)
	}
	return &server{secret: key, versions: map[string][]int{}, done: map[string]bool{}}, nil
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if err := s.verify(r.Header, body); err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	var args struct{ V int }
	rest, ok := strings.CutPrefix(r.URL.Path, "/do/")
	place, back := strings.CutSuffix(rest, "/rollback")
	if err := json.Unmarshal(body, &args); err != nil || !ok || place == "" || r.Method != http.MethodPost {
		http.Error(w, "want POST /do/PLACE or /do/PLACE/rollback with {\"v\": 7}", http.StatusBadRequest)
		return
	}
	if place == "west" && args.V == 8 && !back {
		http.Error(w, "west has no room for 8", http.StatusUnprocessableEntity)
		return
	}
	fmt.Fprintf(w, `{"place":%q,"version":%d}`, place, s.do(r.Header.Get("Idempotency-Key"), place, args.V, back))
}

// do deploys or takes back, unless that was done already, and returns what is there now; 0: nothing.
func (s *server) do(key, place string, version int, back bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	there := s.versions[place]
	switch {
	case s.done[key]:
	case back && len(there) > 0:
		there = there[:len(there)-1]
	case !back:
		there = append(there, version)
	}
	s.done[key], s.versions[place] = true, there
	if len(there) == 0 {
		return 0
	}
	return there[len(there)-1]
}

// verify returns why a message is not from whom it should be (Standard Webhooks 1.0.0).
func (s *server) verify(h http.Header, body []byte) error {
	sent, err := strconv.ParseInt(h.Get("Webhook-Timestamp"), 10, 64)
	if age := time.Since(time.Unix(sent, 0)); err != nil || age > tolerance || age < -tolerance {
		return errors.New("not signed, or not now")
	}
	mac := hmac.New(sha256.New, s.secret)
	fmt.Fprintf(mac, "%s.%d.%s", h.Get("Webhook-Id"), sent, body)
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	for _, one := range strings.Fields(h.Get("Webhook-Signature")) {
		if hmac.Equal([]byte(one), []byte(want)) {
			return nil
		}
	}
	return errors.New("signed by somebody else")
}
