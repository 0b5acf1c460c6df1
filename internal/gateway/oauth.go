package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// A tokenSource gets tokens for an endpoint with our own credentials, and keeps the last. Safe for concurrent use.
type tokenSource struct {
	config clientcredentials.Config
	client *http.Client

	mu    sync.Mutex
	token *oauth2.Token // nil: none yet, or refused
}

func newTokenSource(c ClientCredentials) *tokenSource {
	params := url.Values{}
	for name, value := range c.Params {
		params.Set(name, value)
	}
	return &tokenSource{client: newHTTPClient(), config: clientcredentials.Config{
		ClientID: c.ID, ClientSecret: c.Secret, TokenURL: c.TokenURL, Scopes: c.Scopes, EndpointParams: params}}
}

// authorise puts a token on the request: a new one if the last has run out or, with renew, was refused. The wait for another's
// asking is not cut short by ctx; the asking itself is.
func (s *tokenSource) authorise(ctx context.Context, r *http.Request, renew bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if renew || !s.token.Valid() {
		token, err := s.config.Token(context.WithValue(ctx, oauth2.HTTPClient, s.client))
		if err != nil {
			// The library's error may repeat the answer, which is the token server's text; its status is enough.
			if e := (*oauth2.RetrieveError)(nil); errors.As(err, &e) && e.Response != nil {
				err = fmt.Errorf("it answered %s", e.Response.Status)
			}
			return fmt.Errorf("getting a token for %s: %w", r.URL.Host, err)
		}
		s.token = token
	}
	s.token.SetAuthHeader(r)
	return nil
}
