package reputation

import (
	"context"
	"fmt"
	"net/url"

	"github.com/go-json-experiment/json"

	"github.com/agenthypervisor/hypervisor/internal/service"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

const (
	maxAnswer     = 64 << 10 // bytes
	maxScore      = 1000
	perThousandth = uint32(ring.One) / maxScore
)

// A Service is one reputation service. Safe for concurrent use.
type Service struct {
	asked *service.Service
	kept  *service.Kept[policy.DID, ring.Sigma]
}

// New returns a service; nothing is asked yet. The paths of docs/reputation.md stand under the URL. It returns an error for one that
// is not http or https.
func New(opts service.Options) (*Service, error) {
	s, err := service.New("reputation", opts)
	if err != nil {
		return nil, err
	}
	return &Service{asked: s, kept: service.NewKept[policy.DID, ring.Sigma](s)}, nil
}

// Score returns how the service rates an agent, as σ. The error is service.ErrUnknown where it does not answer, answers something
// else, knows no such agent, or has failed so often that it is not asked for a while.
func (s *Service) Score(ctx context.Context, did policy.DID) (sigma ring.Sigma, err error) {
	if sigma, known := s.kept.Said(did); known {
		return sigma, nil
	}
	if !s.asked.Permit() {
		return 0, s.asked.LeftAlone()
	}
	err = s.asked.Ask(ctx, "/agents/"+url.PathEscape(string(did))+"/score", maxAnswer, func(answer []byte) (err error) {
		sigma, err = parse(answer, did)
		return err
	})
	if err != nil {
		return 0, err
	}
	s.kept.Keep(did, sigma)
	return sigma, nil
}

// parse reads an answer. What else it says is of later versions, and read over.
func parse(b []byte, did policy.DID) (ring.Sigma, error) {
	var said struct {
		Agent policy.DID `json:"agent"`
		Score *uint32    `json:"score"`
	}
	if err := json.Unmarshal(b, &said); err != nil {
		return 0, fmt.Errorf("its answer cannot be read: %w", err)
	}
	switch {
	case said.Agent != did:
		return 0, fmt.Errorf("it answers for %q", said.Agent)
	case said.Score == nil || *said.Score > maxScore:
		return 0, fmt.Errorf("its answer has no score from 0 to %d", maxScore)
	}
	return ring.Sigma(*said.Score * perThousandth), nil
}
