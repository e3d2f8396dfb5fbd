-- One row for every user of the auth-service. Later migrations expand; nothing here is renamed
-- (N-1 and N run side by side).
CREATE TABLE auth_user_references (
    -- The auth-service's id; it is the event's, so there is no sequence.
    user_id     bigint PRIMARY KEY,
    username    text NOT NULL
                CONSTRAINT auth_user_references_username_length CHECK (char_length(username) BETWEEN 1 AND 255),
    -- Empty for a user without an address.
    email       text NOT NULL
                CONSTRAINT auth_user_references_email_length CHECK (char_length(email) <= 320),
    -- When the user was created, as the event says.
    occurred_at timestamptz NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
