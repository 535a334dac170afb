"""Does a program compute what the model computes, and is backward the adjoint of forward?"""
